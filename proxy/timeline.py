"""Where the time of a pull went that makes several requests at once. No I/O, no clock."""

from __future__ import annotations

from peer.account import FLOWING, Account, Cause


class Timeline:
    """The time from the first request's begin to the last one's end, in seconds by cause: each moment counts once.

    As long as bytes move for any request, a moment belongs to what moves: that others wait meanwhile costs nothing.
    Else it is shared by all that is waited for. Moments without a request are the client's own.
    """

    def __init__(self, now: float) -> None:
        self.began_at = self.ended_at = now
        self.seconds: dict[Cause, float] = {}
        self._open: set[Account] = set()
        self._since = now

    @property
    def is_open(self) -> bool:
        """Whether a request runs."""
        return bool(self._open)

    def open(self, account: Account, now: float) -> None:
        """A request begins."""
        self.settle(now)
        self._open.add(account)
        account.changing = self.settle

    def close(self, account: Account, now: float) -> None:
        """A request ends."""
        if account in self._open:
            self.settle(now)
            self._open.discard(account)
            self.ended_at = max(self.ended_at, now)
        account.close(now)

    def settle(self, now: float) -> None:
        """Count the time until now: something is about to change."""
        passed, self._since = max(0.0, now - self._since), max(now, self._since)
        if not passed:
            return
        causes = [account.cause for account in self._open] or [Cause.BETWEEN]
        chosen = [cause for cause in causes if cause in FLOWING] or causes
        for cause in chosen:
            self.seconds[cause] = self.seconds.get(cause, 0.0) + passed / len(chosen)
