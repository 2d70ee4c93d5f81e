"""What an operator asks of a running supernode: JSON over its operations port.

Who may is decided in `shoal.changes`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from aiohttp import web

from shoal.changes import Changes
from shoal.limitbook import LimitBook
from shoal.limits import LIMITS_PATH, LimitOrder
from shoal.revision import RELOAD_PATH, Reload, ReloadOrder
from supernode.roster import Node, Roster

NODES_PATH = "/v1/nodes"


class Administration:
    """One supernode's administration; `routes` belong to its operations server."""

    def __init__(self, roster: Roster, changes: Changes, limits: LimitBook, reload: Reload) -> None:
        """`limits`: what nodes are told. `reload` reads the daemon's configuration again."""
        self._roster = roster
        self._changes = changes
        self._limits = limits
        self._reload = reload

    def routes(self) -> list[web.RouteDef]:
        """The state of the cluster, and its changes."""
        return [
            web.get(NODES_PATH, self._changes.look(self.nodes)),
            web.get(LIMITS_PATH, self._changes.look(self._limits.shown)),
            web.post(LIMITS_PATH, self._changes.change("limit", LimitOrder, self._limits.obey)),
            web.post(RELOAD_PATH, self._changes.change("reload", ReloadOrder, lambda _: self._reload())),
        ]

    def nodes(self) -> dict[str, object]:
        """All nodes that are connected, by name."""
        return {"nodes": [_described(node) for node in sorted(self._roster, key=lambda node: (node.name, node.peer))]}


def _described(node: Node) -> dict[str, object]:
    return {
        "peer": node.peer,
        "name": node.name,
        "labels": dict(node.labels),
        "version": node.software,
        "host": node.contact.host,
        "port": node.contact.port,
        "zone": node.contact.zone,
        "joined": datetime.fromtimestamp(node.joined_at, UTC).isoformat(timespec="seconds"),
    }
