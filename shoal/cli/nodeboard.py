"""A node as `shoal status` shows it: what its daemon answers, in lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from shoal.cli.tables import fitting
from shoal.units import format_age, format_rate, format_share, format_size

_DIGITS = 12
"""Of a digest, as docker shows it."""
_RATED = (
    ("served", "to clients"),
    ("peers_in", "from other nodes"),
    ("origin_in", "from origins"),
    ("peers_out", "to other nodes"),
)

State = Mapping[str, Any]


class Nodeboard:
    """Draws one state after the other; rates are of the time between two of them."""

    def __init__(self) -> None:
        self._before: State | None = None

    def draw(self, state: State, width: int) -> RenderableType:
        """The node's supernode, store, traffic, downloads and upstreams, in at most `width` characters a line."""
        before, self._before = self._before, state
        if before is not None and before["uptime_seconds"] >= state["uptime_seconds"]:
            before = None  # it has restarted
        parts: list[RenderableType] = [Text("\n".join(_lines(state, before)))]
        if state["downloads"]:
            headings = ("download", "done", "of", "rate", "readers", "from")
            parts += [Text(), fitting(headings, [_download(each, before, state) for each in state["downloads"]], width)]
        if state["pulls"]:
            named = ("last pulls", "began", "took", "bytes", "from")
            parts += [Text(), fitting(named, map(_pull, state["pulls"]), width)]
        if state["upstreams"]:
            columns = ("upstream", "received", "requests left", "left alone for")
            parts += [Text(), fitting(columns, map(_upstream, state["upstreams"]), width)]
        return Group(*parts)


def _lines(state: State, before: State | None) -> list[str]:
    lines = [_supernode(state), _store(state)]
    totals = _sums(state)
    moved = ", ".join(f"{format_size(totals[name])} {words}" for name, words in _RATED)
    lines.append(f"in {format_age(state['uptime_seconds'])}: {moved}")
    if before is not None:
        seconds, sums = state["uptime_seconds"] - before["uptime_seconds"], _sums(before)
        rates = ((max(0, totals[name] - sums[name]) / seconds, words) for name, words in _RATED)
        lines.append("now: " + ", ".join(f"{format_size(rate)}/s {words}" for rate, words in rates))
    limits = [
        f"{kind} {format_rate(limit['bytes_per_second'])}"
        for kind, limit in state["limits"].items()
        if limit["bytes_per_second"]
    ]
    if limits:
        lines.append(f"limits: {', '.join(limits)}")
    return lines


def _supernode(state: State) -> str:
    if not state["supernode"]:
        return "supernode: none is configured; this node is a mirror on its own"
    if state["supernode_connected"]:
        return f"supernode: connected to {state['supernode']}; neighbours: {state['neighbours']}"
    trouble = f" ({state['supernode_trouble']})" if state["supernode_trouble"] else ""
    return f"supernode: {state['supernode']} is not reached{trouble}; neighbours: {state['neighbours']}"


def _store(state: State) -> str:
    store = state["store"]
    held = f"store: {format_size(store['bytes'])} in {store['blobs']} blobs"
    if store["limit_bytes"]:
        held += f", of {format_size(store['limit_bytes'])}; {format_size(store['free_bytes'])} are free on the disk"
    if store["pinned_bytes"]:
        held += f"; {format_size(store['pinned_bytes'])} are pinned"
    return f"store: nothing is kept ({state['store_fault']})" if state["store_fault"] else held


def _sums(state: State) -> dict[str, int]:
    totals = state["totals"]
    served = totals["served_store"] + totals["served_peers"] + totals["served_origin"]
    return {**totals, "served": served}


def _download(download: State, before: State | None, state: State) -> tuple[str, ...]:
    count, seconds = download["bytes"], download["seconds"]
    for earlier in () if before is None else before["downloads"]:
        if earlier["digest"] == download["digest"] and earlier["seconds"] <= download["seconds"]:
            count = max(0, download["bytes"] - earlier["bytes"])
            seconds = state["uptime_seconds"] - (before or state)["uptime_seconds"]
    suppliers = [f"{each['name']} {format_size(each['bytes'])}" for each in download["suppliers"]]
    return (
        download["digest"].partition(":")[2][:_DIGITS],
        format_share(download["bytes"] / download["size"]) if download["size"] else "",
        format_size(download["size"]),
        f"{format_size(count / seconds)}/s" if seconds else "",
        str(download["readers"]),
        ", ".join(suppliers),
    )


def _pull(pull: State) -> tuple[str, ...]:
    total = sum(each["bytes"] for each in pull["sources"]) or 1
    shares: dict[str, int] = {}
    for each in pull["sources"]:
        shares[each["kind"]] = shares.get(each["kind"], 0) + each["bytes"]
    return (
        pull["image"],
        pull["began"].partition("T")[2][:8],
        "runs" if pull["running"] else f"{pull['seconds']:.1f} s",
        format_size(pull["bytes"]),
        ", ".join(f"{kind} {count / total:.0%}" for kind, count in shares.items()),
    )


def _upstream(upstream: State) -> tuple[str, ...]:
    left = "" if upstream["remaining"] is None else str(upstream["remaining"])
    if left and upstream["limit"] is not None:
        left += f" of {upstream['limit']}"
    quiet = f"{upstream['quiet_seconds']:.0f} s" if upstream["quiet_seconds"] else ""
    return upstream["registry"], format_size(upstream["bytes"]), left, quiet
