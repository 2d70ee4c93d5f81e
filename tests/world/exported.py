"""The metrics that the daemons really export: of registries as `shoal peer` and `shoal supernode` make them.

`python -m tests.world.exported` makes the tables of `docs/metrics.md` anew.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from peer.settings import PeerSettings
from proxy.settings import ProxySettings
from shoal.cli.node import Node
from shoal.cluster import ClusterSettings
from shoal.operations import process_metrics
from supernode.daemon import Supernode
from supernode.settings import SupernodeSettings

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"

_SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "info": ("_info",),
    "summary": ("_sum", "_count", ""),
}


class Exported(NamedTuple):
    """One metric."""

    name: str
    """As it stands in queries, but for a histogram's suffixes."""
    kind: str
    labels: tuple[str, ...]
    meaning: str
    series: frozenset[str]
    """All names that may stand in queries."""
    values: frozenset[tuple[str, str]]
    """Labels with the values that they have from the start; empty where they come with what happens."""


async def of_node(store: Path) -> list[Exported]:
    """The metrics of a node that has a supernode and never begins."""
    registry = process_metrics()
    cluster = ClusterSettings(insecure=True)
    Node(PeerSettings(store=store, supernode="http://127.0.0.1:9"), ProxySettings(), cluster, registry)
    return sorted(_exported(registry))


async def of_supernode() -> list[Exported]:
    """The metrics of a supernode that never begins."""
    registry = process_metrics()
    Supernode(SupernodeSettings(), ClusterSettings(insecure=True), registry)
    return sorted(_exported(registry))


def _exported(registry: CollectorRegistry) -> Iterator[Exported]:
    for collector in registry._collector_to_names:
        families = list(collector.collect())
        values = frozenset(pair for family in families for sample in family.samples for pair in sample.labels.items())
        if isinstance(collector, MetricWrapperBase):
            labels = [*collector._labelnames, *(["version"] if collector._type == "info" else [])]
            yield _one(collector._name, collector._type or "", labels, collector._documentation, values)
            continue
        for family in families:
            labels = list(getattr(family, "_labelnames", ())) or [name for name, _ in sorted(values)]
            yield _one(family.name, family.type, labels, family.documentation, values)


def _one(name: str, kind: str, labels: list[str], meaning: str, values: frozenset[tuple[str, str]]) -> Exported:
    suffixes = _SUFFIXES[kind]
    whole = name + suffixes[0] if len(suffixes) == 1 else name
    series = frozenset(name + each for each in suffixes)
    return Exported(whole, kind, tuple(dict.fromkeys(labels)), meaning, series, values)


def page_with_tables(page: str, node: list[Exported], supernode: list[Exported]) -> str:
    """`docs/metrics.md` with the tables that these metrics make, in place of those that it has."""
    every = {each.name for each in node} & {each.name for each in supernode}
    tables = {
        "node": [each for each in node if each.name not in every],
        "supernode": [each for each in supernode if each.name not in every],
        "both": [each for each in node if each.name in every],
    }
    for name, metrics in tables.items():
        begin, end = f"<!-- metrics of {name}: made from the code -->\n", f"<!-- end of {name} -->\n"
        before, rest = page.split(begin)
        page = before + begin + _table(metrics) + end + rest.split(end)[1]
    return page


def _table(metrics: list[Exported]) -> str:
    rows = ["| name | kind | labels | meaning |", "| --- | --- | --- | --- |"]
    for each in metrics:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        rows.append(f"| `{each.name}` | {each.kind} | {labels} | {' '.join(each.meaning.split())} |")
    return "".join(f"{row}\n" for row in rows)


def main() -> None:
    """Make the tables of docs/metrics.md anew."""
    with tempfile.TemporaryDirectory() as folder:
        node = asyncio.run(of_node(Path(folder)))
    PAGE.write_text(page_with_tables(PAGE.read_text(), node, asyncio.run(of_supernode())))


if __name__ == "__main__":
    main()
