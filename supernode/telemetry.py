"""What nodes tell of themselves for those who look at the cluster: what is asked of them, and what they reported."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from shoal.messages import InvalidMessage
from supernode.outbox import Outgoing
from supernode.protocol import Hello, PeerId
from supernode.report import MAX_REPORT_SIZE, Report
from supernode.reports import ReportBook
from supernode.watching import Subject, Watching


class Telemetry:
    """Belongs to the event loop of the server that tells it what happens."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._watching = Watching()
        self.began_at = clock()
        self.reports = ReportBook(self.began_at)
        self._waiting: asyncio.Event | None = None

    @property
    def interval(self) -> float:
        """Seconds between two reports of a node."""
        return self._watching.interval

    def look(self, subject: Subject) -> None:
        """Somebody looks at the cluster now."""
        self._watching.look(subject, self._clock())

    async def next_report(self) -> None:
        """Wait until a node reports."""
        if self._waiting is None:
            self._waiting = asyncio.Event()
        await self._waiting.wait()

    # --- what happens (supernode.server) ----------------------------------------------------------------------------

    def joined(self, peer: PeerId, hello: Hello) -> list[Outgoing]:
        """A peer has come; an older one that does not report is asked for nothing."""
        return [self._watching.joined(peer)] if hello.reports else []

    def left(self, peer: PeerId) -> None:
        """A peer is gone."""
        self._watching.left(peer)
        self.reports.leave(peer)

    def reported(self, peer: PeerId, report: Report, size: int) -> None:
        """A report of `size` bytes has come; raises `InvalidMessage` where that is too much."""
        if size > MAX_REPORT_SIZE:
            raise InvalidMessage(f"a report of {size} bytes")
        self.reports.take(peer, report, self._clock(), self._watching.manifests)
        if self._waiting is not None:
            self._waiting.set()
            self._waiting = None

    def decide(self) -> list[Outgoing]:
        """What nodes are to be told now."""
        return self._watching.decide(self._clock())
