"""What an operator changes of a running supernode: JSON over its operations port.

Who may is decided in `shoal.changes`.
"""

from __future__ import annotations

from aiohttp import web

from shoal.changes import Changes
from shoal.limitbook import LimitBook
from shoal.limits import LIMITS_PATH, LimitOrder
from shoal.revision import RELOAD_PATH, Reload, ReloadOrder


class Administration:
    """One supernode's administration; `routes` belong to its operations server."""

    def __init__(self, changes: Changes, limits: LimitBook, reload: Reload) -> None:
        """`limits`: what nodes are told. `reload` reads the daemon's configuration again."""
        self._changes = changes
        self._limits = limits
        self._reload = reload

    def routes(self) -> list[web.RouteDef]:
        """What is set, and its changes."""
        return [
            web.get(LIMITS_PATH, self._changes.look(self._limits.shown)),
            web.post(LIMITS_PATH, self._changes.change("limit", LimitOrder, self._limits.obey)),
            web.post(RELOAD_PATH, self._changes.change("reload", ReloadOrder, lambda _: self._reload())),
        ]
