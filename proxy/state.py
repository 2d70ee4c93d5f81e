"""The state of a node, as `shoal status` shows it."""

from __future__ import annotations

import itertools
import time

from peer.arrivals import Arrivals
from peer.engine import Engine
from peer.sought import Sought
from proxy.explanation import summary
from proxy.limits import LimitBoard
from proxy.pulls import Pulls
from proxy.settings import ProxySettings
from shoal.reference import Registry
from supernode.client import NO_TROUBLE, ControlClient

_MAX_DOWNLOADS, _MAX_SUPPLIERS, _MAX_PULLS = 100, 16, 5
"""Downloads that are told, of each the suppliers that gave most, and the last pulls."""

Shown = dict[str, object]


class NodeState:
    """Looks at one node; belongs to its event loop."""

    def __init__(
        self,
        settings: ProxySettings,
        engine: Engine,
        board: LimitBoard,
        control: ControlClient | None,
        supernode: str,
        pulls: Pulls,
    ) -> None:
        """`control` is None, and `supernode`, its address, empty where there is none."""
        self._settings = settings
        self._engine = engine
        self._board = board
        self._control = control
        self._supernode = supernode
        self._pulls = pulls
        self._began_at = time.monotonic()

    def reconfigure(self, settings: ProxySettings) -> None:
        """These upstreams there are from now on."""
        self._settings = settings

    async def shown(self) -> Shown:
        """The node now. Bytes and requests are counted since it began."""
        engine, figures = self._engine, await self._engine.measure()
        tally, now = engine.tally, time.monotonic()
        trouble = NO_TROUBLE if self._control is None else self._control.trouble
        connected = self._control is not None and self._control.connected
        return {
            "uptime_seconds": round(now - self._began_at, 1),
            "supernode": self._supernode,
            "supernode_connected": connected,
            "supernode_trouble": "" if connected else trouble.text,
            "neighbours": len(engine.neighbours.all),
            "store_fault": engine.supply.store_fault,
            "store": {
                "bytes": figures.size,
                "limit_bytes": figures.limit,
                "free_bytes": figures.disk_free,
                "pinned_bytes": figures.pinned,
                "blobs": len(engine.supply.in_store()),
            },
            "totals": {
                "origin_in": tally.received["origin"],
                "peers_in": tally.peers_in,
                "peers_out": tally.peers_out,
                "served_store": tally.served["store"],
                "served_peers": tally.served["peer"],
                "served_origin": tally.served["origin"],
                "requests": tally.requests,
            },
            "downloads": [
                _download(each, engine.arrivals, now) for each in list(engine.machine.sought.values())[:_MAX_DOWNLOADS]
            ],
            "pulls": [summary(pull, now) for pull in itertools.islice(self._pulls, _MAX_PULLS)],
            "limits": engine.limits.shown()["limits"],
            "upstreams": self._upstreams(now),
        }

    def _upstreams(self, now: float) -> list[Shown]:
        """Each upstream with its rate limit as it was last said."""
        board, tally = self._board, self._engine.tally
        named = {*map(Registry, self._settings.upstreams), *board.limits, *board.quiet_until}
        upstreams: list[Shown] = []
        for name in sorted(named):
            limit = board.limits.get(name)
            upstreams.append(
                {
                    "registry": name,
                    "bytes": tally.origins.get(name, 0),
                    "limit": limit.limit if limit is not None else None,
                    "remaining": limit.remaining if limit is not None else None,
                    "quiet_seconds": round(max(0.0, board.quiet_until.get(name, 0.0) - now), 1),
                }
            )
        return upstreams


def _download(sought: Sought, arrivals: Arrivals, now: float) -> Shown:
    """A blob on its way, from whom it has come, and how many readers of it there are."""
    places = sorted(f"{place.registry}/{place.repository}" for place in sought.places)
    most = sorted(sought.delivery.suppliers.items(), key=lambda entry: -entry[1])[:_MAX_SUPPLIERS]
    return {
        **sought.key._asdict(),
        "repositories": places[:_MAX_SUPPLIERS],
        "bytes": sought.layout.bytes_of(sought.pieces.there),
        "seconds": round(now - sought.opened_at, 1),
        "readers": len(sought.book.readers),
        "suppliers": [
            {"name": arrivals.name(supplier), "origin": supplier.is_origin, "bytes": count} for supplier, count in most
        ],
    }
