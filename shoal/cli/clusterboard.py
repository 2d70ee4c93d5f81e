"""The cluster as `shoal status --cluster` shows it: what a supernode answers, in lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from shoal.cli.tables import fitting
from shoal.fields import authority
from shoal.units import format_age, format_share, format_size


def draw(cluster: Mapping[str, Any], width: int) -> RenderableType:
    """The cluster at a glance, its origins, and its nodes, in at most `width` characters a line."""
    totals, rates, store = cluster["totals"], cluster["rates"], cluster["store"]
    versions = ", ".join(f"{count} of {version}" for version, count in sorted(cluster["nodes"]["versions"].items()))
    ratio = cluster["hit_ratio"]
    lines = [
        f"nodes: {cluster['nodes']['connected']}" + (f" ({versions})" if versions else ""),
        f"swarms: {cluster['swarms']['known']}, of which {cluster['swarms']['active']} move; "
        f"downloads: {cluster['downloads']}; leases: {cluster['leases']}",
        f"now: {_rate(rates['served'])} to clients, {_rate(rates['peers_in'])} between nodes, "
        f"{_rate(rates['origin_in'])} from origins",
        f"in {format_age(cluster['uptime_seconds'])}: {format_size(totals['served'])} to clients, "
        f"{format_size(totals['origin_in'])} from origins, {format_size(cluster['saved_bytes'])} saved"
        + ("" if ratio is None else f"; {format_share(ratio)} hits"),
        f"stores: {format_size(store['bytes'])}, of which {format_size(store['pinned_bytes'])} are pinned",
    ]
    parts: list[RenderableType] = [Text("\n".join(lines))]
    if cluster["origins"]:
        headings = ("origin", "slots", "now", "in all", "requests left", "left alone for")
        parts += [Text(), fitting(headings, map(_origin, cluster["origins"]), width)]
    if cluster["members"]:
        columns = ("node", "address", "served", "from nodes", "from origins", "hits", "store", "downloads")
        parts += [Text(), fitting(columns, map(_node, cluster["members"]), width)]
    silent = cluster["nodes"]["connected"] - cluster["nodes"]["reporting"]
    if silent:
        parts.append(Text(f"\n{silent} nodes have not reported yet, or run a version that does not."))
    return Group(*parts)


def _origin(origin: Mapping[str, Any]) -> tuple[str, ...]:
    left = "" if origin["remaining"] is None else str(origin["remaining"])
    if left and origin["limit"] is not None:
        left += f" of {origin['limit']}"
    return (
        origin["registry"],
        f"{origin['slots_used']} of {origin['slots']}",
        _rate(origin["rate"]),
        format_size(origin["bytes"]),
        left,
        f"{origin['quiet_seconds']:.0f} s" if origin["quiet_seconds"] else "",
    )


def _node(node: Mapping[str, Any]) -> tuple[str, ...]:
    address = authority(node["host"], node["port"])
    report = node["report"]
    if report is None:
        return node["name"], address, "", "", "", "", "", ""
    totals, ratio = report["totals"], report["hit_ratio"]
    return (
        node["name"],
        address,
        format_size(totals["served"]),
        format_size(totals["peers_in"]),
        format_size(totals["origin_in"]),
        "" if ratio is None else format_share(ratio),
        format_size(report["store"]["bytes"]),
        str(report["downloads"]),
    )


def _rate(rate: float) -> str:
    return f"{format_size(rate)}/s"
