"""Upstreams that members say are at their rate limit, and for how long that is believed. No I/O, no clock."""

from __future__ import annotations

from supernode.protocol import PeerId

MAX_SECONDS = 3600.0
_LONE_SECONDS, _LONE_AGAIN_SECONDS = 10.0, 600.0
"""How long one member's word alone is taken, and how long it is not taken again then. Another member that asks after
that meets the limit too where there is one, and says so."""
_MAX_EACH, _MAX = 64, 4096
"""Upstreams of which one member's word is kept, and words in all."""

Registry = str


class QuietBoard:
    """Who has said until when an upstream is to be left alone. Times are in seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._words: dict[Registry, dict[PeerId, tuple[float, float]]] = {}
        """By registry and member: until when it is to be quiet, and until when it is by this word alone."""

    def say(self, peer: PeerId, registry: Registry, seconds: float, now: float) -> float:
        """A member has met a rate limit. Returns for how many seconds more all are to be quiet than they were, from
        now on; 0 where nothing changes."""
        self._forget(now)
        before = self.until(registry, now)
        words = self._words.get(registry, {})
        _, alone = words.get(peer, (now, float("-inf")))
        if peer not in words and (self._kept(peer) >= _MAX_EACH or sum(map(len, self._words.values())) >= _MAX):
            return 0.0
        if alone + _LONE_AGAIN_SECONDS <= now:
            alone = now + min(seconds, _LONE_SECONDS)
        self._words.setdefault(registry, {})[peer] = now + min(seconds, MAX_SECONDS), alone
        until = self.until(registry, now)
        return until - now if until > before else 0.0

    def until(self, registry: Registry, now: float) -> float:
        """Until when an upstream is quiet: as two members say, or for a short time as one does."""
        words = self._words.get(registry)
        if not words:
            return now
        ends = sorted((end for end, _ in words.values()), reverse=True)
        alone = max(alone for _, alone in words.values())
        return max(now, alone, ends[1] if len(ends) > 1 else now)

    def all(self, now: float) -> dict[Registry, float]:
        """Upstreams that are quiet now, and until when."""
        return {registry: until for registry in self._words if (until := self.until(registry, now)) > now}

    def _kept(self, peer: PeerId) -> int:
        return sum(peer in words for words in self._words.values())

    def _forget(self, now: float) -> None:
        for registry, words in list(self._words.items()):
            for peer, (until, alone) in list(words.items()):
                if until <= now and alone + _LONE_AGAIN_SECONDS <= now:
                    del words[peer]
            if not words:
                del self._words[registry]
