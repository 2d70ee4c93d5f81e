"""Pictures of large things, cut to what a page shows of them. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from supernode.preheating.jobs import NodeRun, TaskState
from supernode.views import Picture

MAX_ROWS = 50
"""Rows of one page of nodes."""
MAX_DOTS = 100
"""Members of a swarm that are drawn one by one; of more, there is a dot for each zone."""
_MAX_TRANSFERS = 400
"""Edges, the fastest first."""
_MAX_HOLDERS, _MAX_TASKS = 100, 200


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


def urgent(runs: Sequence[NodeRun]) -> list[int]:
    """Which nodes of a preheat are shown, by their places: those first that failed or are at work, and no more than
    have `_MAX_TASKS` images together."""
    order = sorted(range(len(runs)), key=lambda place: (_interest(runs[place]), runs[place].name))
    shown: list[int] = []
    tasks = 0
    for place in order:
        tasks += len(runs[place].tasks)
        if shown and tasks > _MAX_TASKS:
            break
        shown.append(place)
    return shown


_INTEREST = {TaskState.FAILED: 0, TaskState.RUNNING: 1, TaskState.ASKED: 1, TaskState.WAITING: 2}
_LEAST_INTEREST = 3


def _interest(run: NodeRun) -> int:
    return min((_INTEREST.get(task.state, _LEAST_INTEREST) for task in run.tasks.values()), default=_LEAST_INTEREST)


def _fastest(transfers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(transfers, key=lambda each: -each["rate"])[:_MAX_TRANSFERS]
