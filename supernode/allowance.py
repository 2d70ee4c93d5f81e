"""How often a peer may do what reaches all others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Allowance:
    """So many at once, and so many each second. Time in seconds is passed in."""

    burst: float
    per_second: float
    left: float
    since: float

    @classmethod
    def of(cls, burst: float, per_second: float, now: float) -> Allowance:
        """A full allowance."""
        return cls(burst, per_second, burst, now)

    def take(self, now: float) -> bool:
        """Whether one more is allowed now."""
        self.left = min(self.burst, self.left + (now - self.since) * self.per_second)
        self.since = now
        if self.left < 1:
            return False
        self.left -= 1
        return True
