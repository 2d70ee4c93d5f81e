"""A token bucket: how many bytes may pass, and when each that waits has its turn. No I/O, no clock."""

from __future__ import annotations

BURST_SECONDS = 0.05
"""What was not used of so many seconds may pass at once: timers come late, and links idle for a moment between two
pieces."""


class TokenBucket:
    """Times are in seconds of any monotonic clock, rates in bytes/s.

    Whoever wants to let bytes pass takes their turn first, and waits until it comes. Turns come in the order in which
    they were taken. Over any `t` seconds no more than `rate * t` bytes pass, and a burst: what may pass in
    `BURST_SECONDS`, or the bytes of one turn where these are more. A rate of 0 is no limit.
    """

    def __init__(self, rate: float = 0.0) -> None:
        self.rate = rate
        self._at = 0.0
        self._taken = 0.0
        """Bytes of all turns that were taken."""
        self._open = rate * BURST_SECONDS
        """How many of them may have passed by now; beyond `_taken` what the next ones may use at once."""

    def take(self, size: int, now: float) -> float:
        """Take a turn for `size` bytes, which is given to `wait`."""
        self._advance(now)
        self._taken += size
        return self._taken

    def wait(self, turn: float, now: float) -> float:
        """Seconds until a turn comes, if the rate stays as it is; 0 where it has come."""
        self._advance(now)
        return max(0.0, turn - self._open) / self.rate if self.rate else 0.0

    def change(self, rate: float, now: float) -> None:
        """From now on this is the rate, also for those who wait already."""
        self._advance(now)
        if not self.rate:
            self._open = self._taken + rate * BURST_SECONDS
        self.rate = rate

    def _advance(self, now: float) -> None:
        passed, self._at = max(0.0, now - self._at), max(now, self._at)
        self._open = min(self._open + self.rate * passed, self._taken + self.rate * BURST_SECONDS)
