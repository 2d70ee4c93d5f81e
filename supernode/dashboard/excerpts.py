"""Pictures of large things, cut to what a page shows of them. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from supernode.views import Picture

MAX_ROWS = 50
"""Rows of one page of nodes."""
MAX_DOTS = 100
"""Members of a swarm that are drawn one by one; of more, there is a dot for each zone."""
_MAX_TRANSFERS = 400
"""Edges, the fastest first."""
_MAX_HOLDERS, _MAX_RUNS = 100, 100


def excerpt_of_swarm(swarm: Picture, zones: Mapping[str, str]) -> Picture:
    """A swarm whose members are few enough to be drawn, else its zones as members and the transfers between them.

    `zones` of nodes, by their peers. What is added: `zone` of each member, `count` of nodes that it stands for, and
    `grouped`.
    """
    members: list[dict[str, Any]] = swarm["members"]  # type: ignore[assignment]
    transfers: list[dict[str, Any]] = swarm["transfers"]  # type: ignore[assignment]
    if len(members) <= MAX_DOTS:
        found = [{**member, "zone": zones.get(member["peer"], ""), "count": 1} for member in members]
        return {**swarm, "members": found, "transfers": _fastest(transfers), "grouped": False}
    groups: dict[str, dict[str, Any]] = {}
    place: dict[str, str] = {}
    for member in members:
        zone = place[member["peer"]] = zones.get(member["peer"], "")
        group = groups.setdefault(
            zone,
            {"peer": zone, "name": zone or "no zone", "zone": zone, "count": 0, "nodes_complete": 0, "wants": False}
            | {"pieces_there": 0, "have": ""},
        )
        group["count"] += 1
        group["nodes_complete"] += member["complete"]
        group["wants"] |= member["wants"]
        group["pieces_there"] += member["pieces_there"]
    for group in groups.values():
        group["complete"] = group["nodes_complete"] == group["count"]
        group["pieces_there"] //= group["count"]
    rates: Counter[tuple[str, str | None, str | None]] = Counter()
    for each in transfers:
        source = None if each["from_peer"] is None else place.get(each["from_peer"], "")
        rates[place.get(each["to"], ""), source, each["from_origin"]] += each["rate"]
    between = [
        {"to": to, "from_peer": source, "from_origin": origin, "rate": rate}
        for (to, source, origin), rate in rates.items()
    ]
    largest = sorted(groups.values(), key=lambda group: (-group["count"], group["zone"]))
    return {**swarm, "members": largest[:MAX_DOTS], "transfers": _fastest(between), "grouped": True}


def excerpt_of_image(image: Picture) -> Picture:
    """An image with some of its nodes, those first that lack something, and how many are left out."""
    nodes: list[dict[str, Any]] = image["nodes"]  # type: ignore[assignment]
    return {
        **image,
        "nodes": sorted(nodes, key=lambda node: node["complete"])[:_MAX_HOLDERS],
        "nodes_count": len(nodes),
        "nodes_complete": sum(node["complete"] for node in nodes),
        "nodes_pinned": sum(node["pinned"] for node in nodes),
    }


_INTEREST = {"failed": 0, "running": 1, "waiting": 2, "cancelled": 3, "done": 4}


def excerpt_of_preheat(preheat: Picture) -> Picture:
    """A preheat with some of its nodes, those first that failed or are at work, and how many there are."""
    runs: list[dict[str, Any]] = preheat["runs"]  # type: ignore[assignment]

    def interest(run: Mapping[str, Any]) -> tuple[int, str]:
        return min((_INTEREST.get(image["state"], 1) for image in run["images"]), default=9), run["node"]

    return {**preheat, "runs": sorted(runs, key=interest)[:_MAX_RUNS], "runs_count": len(runs)}


def _fastest(transfers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(transfers, key=lambda each: -each["rate"])[:_MAX_TRANSFERS]
