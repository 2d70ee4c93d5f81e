"""How fast uploads go together, and how fast they are let go: a little below what the link takes. No I/O.

Whoever uploads at full rate has a full queue before its link, in which the acknowledgements of its downloads wait; and
bursts of several uploads at once overflow it. Who is held to less than the others leaves its part of the work to them.
So the rate of downloads counts as well, for a node that is seldom asked does not show what its link takes; where a link
takes in more than out, the limit is idle. The figures behind the constants stand in `docs/architecture.md`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_WINDOW_SECONDS = 1.0
"""Over which a rate is taken: a queue that fills or empties moves it by a twentieth. Over twice as long is too late for
the start, over half as long it says too much."""
_FULL_WINDOW = 0.9
"""Of these seconds, since samples do not come to the millisecond."""
_MEMORY_SECONDS = 20.0
"""How long a rate counts that was reached once."""
_CROWD = 2 / 3
"""Part of the upload slots in service, on average, with which the link is the limit and not those who ask."""
_SETTLE_SECONDS = 2.0
"""How long a link must have been full before its rate is believed."""
_MARGIN = 0.95
"""Of the best rate, which counts messages too and is a little too high for being the best of many."""
_GROWTH, _GROWN = 1.04, 1.12
"""Factor by which the limit grows at a time while it is what holds uploads back, and of the best rate until it is clear
that the link takes no more."""
_PAUSE_AFTER_GAIN, _PAUSE, _MAX_PAUSE = 0.5, 4.0, 16.0
"""Seconds until the next attempt at more: after one that brought something, after one that did not, and at most, since
it doubles with each further one."""
_GAIN = 1.03
"""Factor by which an attempt has to raise the best rate."""
_UNUSED = 0.02
"""Part of the time in which nobody asked for what was allowed, up to which the limit counts as used."""
_FASTEST = 32e6
"""Bytes/s above which nothing is held back: nothing is known of such links, and timers are too coarse for them."""
_BURST_SECONDS = 0.01
_CAPPED = 0.85
"""Part of what the configuration lets through at which uploads are held back by that, and not by the link."""
_LEAST_WAIT = 0.002
"""Seconds for which no timer is set."""


@dataclass(frozen=True, slots=True)
class _Tick:
    at: float
    acknowledged: int
    received: int
    serving: int


@dataclass(frozen=True, slots=True)
class _Rate:
    at: float
    rate: float
    received: float
    link_bound: bool


class UploadPace:
    """Times are in seconds of any monotonic clock, rates in bytes/s."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._ticks: deque[_Tick] = deque()
        self._rates: deque[_Rate] = deque()
        self._next = 0.0
        self._unused = 0.0
        self._sampled_at = 0.0
        self._growing = True
        self._grow_at = 0.0
        self._grown_from = 0.0
        self._pause = _PAUSE_AFTER_GAIN
        self.best = 0.0
        """The most that all uploads together have reached of late; 0 where that is not known."""
        self.limit = 0.0
        """At which they are let go; 0 where they are not held back."""
        self.cap = 0.0
        """What the configuration lets through at most, which is seen to elsewhere; 0 for no limit."""

    def sample(self, acknowledged: int, received: int, serving: int, now: float) -> None:
        """Bytes that neighbours have acknowledged and sent since the last call, and the uploads in service now.

        To be called some times a second, also while there are none.
        """
        while self._rates and now - self._rates[0].at > _MEMORY_SECONDS:
            self._rates.popleft()
        if serving or acknowledged:
            self._ticks.append(_Tick(now, acknowledged, received, serving))
            while len(self._ticks) > 2 and now - self._ticks[1].at >= _WINDOW_SECONDS:
                self._ticks.popleft()
            self._rate(now)
        else:
            self._ticks.clear()
        self.best = max((each.rate for each in self._rates), default=0.0)
        self.limit = self._limit(now)
        self._sampled_at, self._unused = now, 0.0

    def book(self, size: int, now: float) -> float:
        """Take the place of `size` bytes in the order of what is sent; returns the seconds until it is their turn."""
        if not self.limit:
            return 0.0
        self._unused += self._idle(now)
        begin = max(self._next, now - _BURST_SECONDS)
        self._next = begin + size / self.limit
        return begin - now if begin - now > _LEAST_WAIT else 0.0

    def _idle(self, now: float) -> float:
        """Seconds until now, since the last chunk or sample, in which nobody asked for what was allowed."""
        return max(0.0, now - _BURST_SECONDS - max(self._next, self._sampled_at))

    def _rate(self, now: float) -> None:
        """The first tick only says when counting begins."""
        elapsed = now - self._ticks[0].at
        if elapsed <= 0:
            return
        ticks = list(self._ticks)[1:]
        crowded = sum(tick.serving for tick in ticks) >= _CROWD * self.slots * len(ticks)
        is_full = elapsed >= _FULL_WINDOW * _WINDOW_SECONDS
        rate = sum(tick.acknowledged for tick in ticks) / elapsed
        received = sum(tick.received for tick in ticks) / elapsed if is_full else 0.0
        self._rates.append(_Rate(now, rate, received, crowded and is_full))

    def _limit(self, now: float) -> float:
        bound = [each for each in self._rates if each.link_bound]
        best = max((max(each.rate, each.received) for each in bound), default=0.0)
        if not bound or bound[-1].at - bound[0].at < _SETTLE_SECONDS or self._is_moot(best):
            self._growing, self._pause = True, _PAUSE_AFTER_GAIN
            return 0.0
        if not self.limit:
            self._grown_from = best
            return _MARGIN * best
        is_used = self._unused + self._idle(now) < _UNUSED * (now - self._sampled_at)
        if self._growing and (not is_used or self.limit > _GROWN * best):
            self._pause = self._next_pause(best)
            self._growing, self._grow_at = False, now + self._pause
        elif not self._growing and is_used and now >= self._grow_at:
            self._growing, self._grown_from = True, best
        return self.limit * _GROWTH if self._growing else _MARGIN * best

    def _is_moot(self, best: float) -> bool:
        """Whether a link that brings so much need not be looked after."""
        return best > _FASTEST or (self.cap > 0 and best > _CAPPED * self.cap)

    def _next_pause(self, best: float) -> float:
        if best >= _GAIN * self._grown_from:
            return _PAUSE_AFTER_GAIN
        return min(max(_PAUSE, 2 * self._pause), _MAX_PAUSE)
