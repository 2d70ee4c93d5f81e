"""Whether peers are reached from outside: this one asks for itself, and looks for others that ask."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from peer.tasks import Tasks
from supernode import protocol
from supernode.client import ControlClient
from supernode.protocol import PeerId

_MAX_VISITS = 4
"""Visits at a time; the supernode has each peer make few."""
_AGAIN_SECONDS = 5.0
"""How long an answer counts: the supernode sends others no more often."""


class Caller(Protocol):
    """Who connects (`peer.neighbours.Neighbours` implements it)."""

    async def visit(self, peer: PeerId, host: str, port: int) -> str:
        """Connect to a peer and hang up; returns a value of `Outcome`, and remembers it."""


class Visiting:
    """Visits that others ask for by way of the supernode, and this peer's own question."""

    def __init__(self, control: ControlClient, caller: Caller, tasks: Tasks) -> None:
        self._control = control
        self._caller = caller
        self._tasks = tasks
        self._visits = 0
        self._last: tuple[protocol.Probed, float] | None = None
        self._asking = asyncio.Lock()
        control.visiting = self.begin

    def begin(self, message: protocol.Visit) -> None:
        """Make a visit, and tell what came of it."""
        if self._visits < _MAX_VISITS:
            self._visits += 1
            self._tasks.own(self._visit(message))

    async def probe(self) -> protocol.Probed | None:
        """What others have seen who tried to reach this peer, which then tries to reach them; None where the supernode
        does not say."""
        async with self._asking:
            if self._last is not None and time.monotonic() - self._last[1] < _AGAIN_SECONDS:
                return self._last[0]
            answer = await self._control.probe()
            self._last = None if answer is None else (answer, time.monotonic())
            if answer is not None:
                visits = [self._caller.visit(PeerId(call.peer), call.host, call.port) for call in answer.calls]
                await asyncio.gather(*visits[:_MAX_VISITS])
            return answer

    async def _visit(self, message: protocol.Visit) -> None:
        try:
            outcome = await self._caller.visit(PeerId(message.peer), message.host, message.port)
        finally:
            self._visits -= 1
        self._control.send(protocol.Visited(message.visit, outcome))
