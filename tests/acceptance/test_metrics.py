"""What Prometheus makes of the metrics of real daemons, and of the alert rules."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.daemons import ask, metrics
from shoal.digest import Digest
from tests.world.client import get
from tests.world.exported import of_node, of_supernode
from tests.world.images import random_bytes
from tests.world.nodes import Node, Supernode, wait_until
from tests.world.origin import ScriptedOrigin
from tests.world.programs import require, run
from tests.world.swarm import UPSTREAM, blob_path

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
CONTENT = random_bytes(3 << 20, "metrics")


def scraped(port: int) -> str:
    status, text = ask(port, "/metrics")
    assert status == 200
    return text


def families(text: str) -> set[str]:
    return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}


@pytest.fixture
async def known(tmp_path: Path) -> set[str]:
    return {each.name for each in (*await of_node(tmp_path / "none"), *await of_supernode())}


def test_metrics_of_both_daemons_please_promtool_and_say_what_happened(
    tmp_path: Path, stack: ExitStack, known: set[str]
) -> None:
    require("promtool")
    origin = ScriptedOrigin()
    origin.push(CONTENT)
    url, path = origin.start(stack), blob_path(Digest.of(CONTENT))
    supernode = Supernode(tmp_path / "supernode")
    supernode.start(stack)
    one, two = (Node(tmp_path / name, {UPSTREAM: url}, supernode.port) for name in ("one", "two"))
    for node in (one, two):
        node.start(stack)
    for node in (one, two, two):
        assert get(node, path).brings(CONTENT)
        wait_until(lambda node=node: node.counted("shoal_store_blobs") == 1, "it is stored")  # type: ignore[misc]
    assert get(two, blob_path(Digest.of(b"nobody has it"))).status == 404

    assert one.counted('shoal_proxy_sent_bytes_total{source="origin"}') == len(CONTENT)
    assert one.counted(f'shoal_upstream_received_bytes_total{{registry="{UPSTREAM}"}}') >= len(CONTENT)
    assert two.counted('shoal_proxy_sent_bytes_total{source="peer"}') == len(CONTENT)
    assert two.counted('shoal_proxy_sent_bytes_total{source="store"}') == len(CONTENT)
    for source in ("peer", "store"):
        assert two.counted(f'shoal_proxy_served_responses_total{{route="blob",source="{source}"}}') == 1
    assert two.counted('shoal_proxy_errors_total{code="BLOB_UNKNOWN"}') == 1
    assert two.counted("shoal_supernode_last_contact_timestamp_seconds") > 1e9
    led = metrics(supernode.operations_port)
    fetched = {word: led[f'shoal_supernode_origin_bytes_total{{fetch="{word}"}}'] for word in ("first", "again")}
    assert fetched == {"first": len(CONTENT), "again": 0}
    assert led["shoal_supernode_leases_granted_total"] >= 1

    texts = [scraped(port) for port in (one.operations_port, two.operations_port, supernode.operations_port)]
    for text in texts:
        lint = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")
    unknown = {name for text in texts for name in families(text)} - known
    assert not unknown


@pytest.mark.parametrize("command", [("check", "alerts.yml"), ("test", "alerts.test.yml")])
def test_promtool_takes_the_alert_rules(command: tuple[str, str]) -> None:
    require("promtool")
    word, file = command
    run("promtool", word, "rules", PROMETHEUS / file)
