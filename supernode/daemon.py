"""A supernode as a daemon: the port of its peers, and the one of its operators."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Self

import structlog
from prometheus_client import CollectorRegistry

from shoal.audit import Audit
from shoal.changes import Changes, not_reloaded
from shoal.cluster import ClusterSettings
from shoal.membership import Membership
from shoal.operations import OperationsServer
from shoal.operator import OperatorToken
from shoal.revision import Reload
from shoal.sessions import Sessions
from supernode.administration import Administration
from supernode.dashboard.dashboard import Dashboard
from supernode.description import description_routes
from supernode.gallery import Gallery
from supernode.onlookers import Onlookers
from supernode.preheating.preheats import Preheats
from supernode.server import SupernodeServer
from supernode.settings import SupernodeSettings
from supernode.views import ClusterView

log = structlog.get_logger()

_LARGEST_ORDER = 1 << 20
"""Bytes of an order: lists of images to preheat are long."""


class Supernode:
    """All of a supernode, as an async context manager; the ports are known inside."""

    def __init__(
        self,
        settings: SupernodeSettings,
        cluster: ClusterSettings,
        metrics: CollectorRegistry,
        reload: Reload = not_reloaded,
    ) -> None:
        """Raises `Exposed` and `MembershipUnusable`."""
        cluster.check_host("supernode.host", settings.host)
        self._membership = Membership(cluster)
        self._token = OperatorToken(settings.token_file)
        self._audit = Audit(Path(settings.audit)) if settings.audit else None
        self.server = SupernodeServer(settings, metrics, self._membership)
        sessions = Sessions()
        changes = Changes(self._token, self._audit, from_elsewhere=True, sessions=sessions)
        administration = Administration(changes, self.server.limits, reload)
        telemetry = self.server.telemetry
        self.view = ClusterView(self.server.tracker, self.server.roster, telemetry)
        self.onlookers = Onlookers(telemetry)
        gallery = Gallery(self.view, self.onlookers, telemetry, changes)
        self._preheats = Preheats(
            settings.preheat, settings.state, self.server, self._token, sessions, self._audit, metrics
        )
        dashboard = Dashboard(self.view, self.server.roster, self._preheats, self.onlookers, changes, sessions)
        self.operations = OperationsServer(
            settings.operations,
            metrics,
            {"supernode": lambda: self._serving},
            [
                *administration.routes(),
                *gallery.routes(),
                *self._preheats.routes(),
                *dashboard.routes(),
                *description_routes(),
            ],
            largest_body=_LARGEST_ORDER,
        )
        self._serving = False
        self._stack = contextlib.AsyncExitStack()

    async def prepare(self, settings: SupernodeSettings) -> Callable[[], None]:
        """Have changed files read again. What is live of the settings holds when what is returned is called."""
        await self._membership.refresh()
        return lambda: self.server.reconfigure(settings)

    async def __aenter__(self) -> Self:
        """Raises `OSError` where an address is not to be had."""
        async with contextlib.AsyncExitStack() as stack:
            if self._audit is not None:
                await stack.enter_async_context(self._audit)
            await asyncio.to_thread(self._make_token)
            await stack.enter_async_context(self.operations)
            await stack.enter_async_context(self._preheats)
            await stack.enter_async_context(self._membership)
            await stack.enter_async_context(self.server)
            stack.callback(self._unready)
            self._serving = True
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _make_token(self) -> None:
        """A supernode needs no disk for its swarms: where there is none to write to, nobody leads it by a token."""
        try:
            self._token.make()
        except OSError as error:
            log.warning("operator.no_token", file=str(self._token.path), error=str(error))

    def _unready(self) -> None:
        self._serving = False
