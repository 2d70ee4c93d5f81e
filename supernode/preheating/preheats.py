"""Preheating as a part of the supernode: the board of preheats, the calendar, the inbox of pushes, and their API."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Self

from aiohttp import web
from prometheus_client import CollectorRegistry

from shoal.audit import Audit
from shoal.changes import Changes
from shoal.operator import OperatorToken
from shoal.sessions import Sessions
from supernode.preheating.api import PreheatApi
from supernode.preheating.archive import Archive
from supernode.preheating.board import PreheatBoard
from supernode.preheating.calendar import Calendar
from supernode.preheating.inbox import Inbox
from supernode.preheating.settings import PreheatSettings
from supernode.preheating.tokens import PreheatTokens
from supernode.server import SupernodeServer


class Preheats:
    """An async context manager, to be entered before nodes may come."""

    def __init__(
        self,
        settings: PreheatSettings,
        state: Path,
        server: SupernodeServer,
        operator: OperatorToken,
        sessions: Sessions,
        audit: Audit | None,
        registry: CollectorRegistry,
    ) -> None:
        """`state`: the folder of what outlives a restart. `sessions`: those of browsers, by the operator's token."""
        self.board = PreheatBoard(server.roster, server.send, server.refresh, Archive(state), registry, random.Random())
        server.preheats = self.board
        self.calendar = Calendar(settings.schedules, self.board, state, registry)
        self._inbox = Inbox(settings.pushes, self.board)
        file = Path(settings.tokens_file).expanduser() if settings.tokens_file else None
        tokens = PreheatTokens(operator, file)
        changes = Changes(tokens, audit, from_elsewhere=True, sessions=sessions)
        self._api = PreheatApi(self.board, self.calendar, self._inbox, changes, tokens)
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.board)
            await stack.enter_async_context(self.calendar)
            await stack.enter_async_context(self._inbox)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def routes(self) -> list[web.RouteDef]:
        """What is asked of it over the operations port."""
        return self._api.routes()
