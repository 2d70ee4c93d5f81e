"""Where bytes wait for their turn: the buckets of a node's limits, in its event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping

from peer.account import Cause, waiting_for
from peer.bucket import TokenBucket
from peer.metrics import LimitMetrics
from shoal.limits import Traffic

_LEAST_WAIT = 0.001
"""Seconds for which no timer is set; what is too early here is late the next time."""
_PORTION_SECONDS = 0.02
_LEAST_PORTION, _MOST_PORTION = 16 << 10, 1 << 20
"""Bytes that are let through in one go: what a limit lets through in this time, within these bounds."""


class Turn:
    """Somebody who waits. `cancel` where nothing is to pass any more; it is not given back."""

    def __init__(self, throttle: Throttle, marks: Mapping[Traffic, float], go: Callable[[], None], earliest: float):
        self._throttle = throttle
        self._marks = marks
        self._go = go
        self._earliest = earliest
        self._began = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None

    def waits_for(self, traffic: Traffic) -> bool:
        """Whether it is this limit's turn, among others."""
        return traffic in self._marks

    def cancel(self) -> None:
        """Let go of it: nothing is called any more."""
        self._throttle.waiting.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def waits(self) -> bool:
        """Set the timer for what is left to wait; False where nothing is."""
        now = time.monotonic()
        wait = self._earliest - now
        for traffic, mark in self._marks.items():
            wait = max(wait, self._throttle.buckets[traffic].wait(mark, now))
        if wait <= _LEAST_WAIT:
            return False
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(wait, self.come)
        return True

    def come(self) -> None:
        """Go on where the time has come: a limit may have changed since the timer was set."""
        if self.waits():
            return
        self.cancel()
        for traffic in self._marks:
            self._throttle.metrics.waited(traffic, time.monotonic() - self._began)
        self._go()


class Gate:
    """What bytes pass that fall under these limits together."""

    def __init__(self, throttle: Throttle, *traffic: Traffic) -> None:
        self._throttle = throttle
        self._buckets = {each: throttle.buckets[each] for each in traffic}
        self.portion = 0
        """Bytes that are to pass in one go; 0 where there is no limit."""

    def adjust(self) -> None:
        """A limit has changed."""
        rates = [bucket.rate for bucket in self._buckets.values() if bucket.rate]
        portion = int(min(rates, default=0.0) * _PORTION_SECONDS)
        self.portion = min(max(portion, _LEAST_PORTION), _MOST_PORTION) if rates else 0

    def book(self, size: int, go: Callable[[], None], earliest: float = 0.0) -> Turn | None:
        """Take a turn for `size` bytes, which comes not before `earliest` of the monotonic clock.

        None where it has come; else `go` is called when it comes.
        """
        now = time.monotonic()
        if not self.portion and earliest <= now:
            return None
        marks = {traffic: bucket.take(size, now) for traffic, bucket in self._buckets.items() if bucket.rate}
        turn = Turn(self._throttle, marks, go, earliest)
        if not turn.waits():
            return None
        self._throttle.waiting.add(turn)
        return turn

    async def pass_by(self, size: int) -> None:
        """Wait until so many bytes have had their turn."""
        if not self.portion:
            return
        come = asyncio.Event()
        turn = self.book(size, come.set)
        if turn is None:
            return
        try:
            with waiting_for(Cause.LIMIT):
                await come.wait()
        finally:
            turn.cancel()


async def passed(chunks: AsyncIterator[bytes], gate: Callable[[], Gate]) -> AsyncIterator[bytes]:
    """The chunks, each of them when its turn has come at what is its gate by then, and in smaller ones where there is a
    limit."""
    async for chunk in chunks:
        begin = 0
        while begin < len(chunk):
            at = gate()
            end = min(begin + at.portion, len(chunk)) if at.portion else len(chunk)
            await at.pass_by(end - begin)
            yield chunk[begin:end] if end - begin < len(chunk) else chunk
            begin = end


class Throttle:
    """The buckets of all limits, and who waits there. Belongs to the event loop."""

    def __init__(self, metrics: LimitMetrics) -> None:
        self.metrics = metrics
        self.buckets = {traffic: TokenBucket() for traffic in Traffic}
        self.waiting: set[Turn] = set()
        self.upload = Gate(self, Traffic.UPLOAD)
        self.peers = Gate(self, Traffic.DOWNLOAD)
        self.origin = Gate(self, Traffic.DOWNLOAD, Traffic.ORIGIN)
        self.preheat = Gate(self, Traffic.DOWNLOAD, Traffic.ORIGIN, Traffic.PREHEAT)

    def holds_back(self, traffic: Traffic) -> bool:
        """Whether anything waits for this limit now."""
        return any(turn.waits_for(traffic) for turn in self.waiting)

    def change(self, traffic: Traffic, rate: float) -> None:
        """A limit is another one from now on, in bytes per second; 0: none. Who waits for it waits accordingly."""
        self.buckets[traffic].change(rate, time.monotonic())
        self.metrics.limited(traffic, rate)
        for gate in (self.upload, self.peers, self.origin, self.preheat):
            gate.adjust()
        for turn in list(self.waiting):
            if turn in self.waiting:  # the ones before may have ended its connection
                turn.come()
