from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from shoal.reference import Location
from supernode import protocol
from supernode.handout import Contact
from supernode.preheating.archive import Archive
from supernode.preheating.board import PreheatBoard
from supernode.protocol import PeerId, PreheatState
from supernode.roster import Node, Roster


@dataclass
class World:
    """A board with nodes that are played here, and a clock that the test moves."""

    folder: Path
    now: float = 1_700_000_000.0
    told: list[tuple[PeerId, protocol.FromSupernode]] = field(default_factory=list)
    roster: Roster = field(default_factory=Roster)
    tags: list[str] = field(default_factory=list)
    """What nodes answer who are asked for tags."""
    refusals: int = 0
    """How many of them cannot tell."""
    refreshed: list[Location] = field(default_factory=list)
    asked: Callable[[], None] = lambda: None
    """Called when one is asked."""

    def board(self) -> PreheatBoard:
        self._board = PreheatBoard(
            self.roster,
            self.send,
            self.refreshed.append,
            Archive(self.folder),
            CollectorRegistry(),
            random.Random(1),
            lambda: self.now,
        )
        return self._board

    def join(self, name: str) -> Node:
        peer = PeerId(name * 32)
        hello = protocol.Hello(protocol.VERSION, peer, 5081, name=name, software="0.1", preheats=True)
        self.roster.join(peer, hello, Contact("10.0.0.1", 5081, ""), self.now)
        node = self.roster.get(peer)
        assert node is not None
        self._board.joined(node)
        return node

    def send(self, peer: PeerId, message: protocol.FromSupernode) -> None:
        self.told.append((peer, message))
        if isinstance(message, protocol.ListTags):
            self.asked()
            error = "the registry refuses this node" if self.refusals else ""
            self.refusals -= bool(error)
            self._board.heard(peer, protocol.Tags(message.query, [] if error else self.tags, error))

    def take(self, kind: type[protocol.FromSupernode]) -> list[protocol.FromSupernode]:
        """The messages of a kind since the last time."""
        taken = [message for _, message in self.told if isinstance(message, kind)]
        self.told = [(peer, message) for peer, message in self.told if not isinstance(message, kind)]
        return taken

    def finish(self, state: str = PreheatState.DONE) -> None:
        """All nodes end what they were asked for."""
        for job in list(self._board.jobs.values()):
            while not job.is_over:
                for peer, message in self.told:
                    if isinstance(message, protocol.Preheat):
                        self._board.heard(peer, protocol.PreheatProgress(message.job, message.image, state))
                self._board.decide(job)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    yield World(tmp_path)
