"""The books of requests to neighbours: what is outstanding where, how many may be, and which have got stuck. No I/O.

It sends and receives nothing. Times are in seconds of any monotonic clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from peer.uploads import UPLOAD_SLOTS
from shoal.digest import Digest
from supernode.protocol import PeerId

START_DEPTH = 2 * UPLOAD_SLOTS
"""Requests outstanding at the start. 16 nodes at 50 Mbit/s, median over bound: 8 1.19, 12 1.16, 18 1.17, 24 1.19."""

WIDE_DEPTH = 4 * UPLOAD_SLOTS
"""And with many neighbours, which refuse more of them. 128 simulated peers, slowest over bound: 12 1.54, 24 1.28, 36
1.30."""

_MESH = 15
"""Neighbours up to which `START_DEPTH` was measured."""
_MAX_DEPTH = 64
_COVER = 1.5
"""Outstanding bytes over rate x latency."""
_RATE_SECONDS = 1.0
_LATENCY_SECONDS = 10.0
_MIN_PATIENCE = 3.0
_PATIENCE = 6.0
_SMOOTHING = 0.25
_LATE, _MIN_LATE = 2.0, 0.1
"""Times the seconds that a piece takes, and seconds, after which the last pieces are asked for twice. Where they are at
once, the copies fill the links that the pieces need: 128 simulated peers, slowest over bound: 1.24, with this 1.21."""
_REST_SECONDS = 0.3
"""How long a neighbour that said busy is left alone, where it does not call earlier."""

Key = tuple[Digest, int]


@dataclass(slots=True)
class _Asked:
    at: float
    began: bool = False


class Requests:
    """What is outstanding, and how much may be. Keep `sources`, the neighbours to spread requests over, up to date."""

    def __init__(self) -> None:
        self._asked: dict[Key, dict[PeerId, _Asked]] = {}
        self._load: defaultdict[PeerId, int] = defaultdict(int)
        self._resting: dict[PeerId, float] = {}
        self._heard: dict[PeerId, float] = {}
        self._took: dict[PeerId, float] = {}
        self._rate = 0.0
        self._latency = 0.0
        self._latency_at = 0.0
        self._window_start = 0.0
        self._window_bytes = 0
        self._service = 0.0
        self._covering = 0
        self.count = 0
        self.sources = 0

    def load(self, peer: PeerId) -> int:
        """Requests outstanding at one neighbour."""
        return self._load[peer]

    @property
    def depth(self) -> int:
        """Requests that may be outstanding: it follows rate x latency, as LEDBAT's window does, from a floor up."""
        floor = min(max(START_DEPTH, self.sources * START_DEPTH // _MESH), WIDE_DEPTH)
        return min(max(floor, self._covering), _MAX_DEPTH)

    @property
    def most_at_one(self) -> int:
        """Requests that may be outstanding at one neighbour: rare pieces draw all askers to one holder, and what it
        cannot serve soon is better asked elsewhere."""
        return -(-self.depth // max(self.sources, 1))

    def cost(self, peer: PeerId) -> float:
        """How little is to be said for asking one neighbour: what is outstanding there, then how slow it has been.

        The whole part is the load; the fraction grows with the seconds from request to piece. Who uploads at full rate
        downloads at less, since its acknowledgements wait: asking others evens that out.
        """
        took = self._took.get(peer, self._service)
        return self._load[peer] + took / (1 + took)

    def late(self, digest: Digest, piece: int, now: float) -> PeerId | None:
        """The one neighbour that was asked for a piece, where that takes it much longer than a piece takes."""
        askers = self._asked.get((digest, piece), {})
        if len(askers) != 1 or not self._service:
            return None
        [(peer, asked)] = askers.items()
        return peer if now - asked.at > max(_LATE * self._service, _MIN_LATE) else None

    def takers(self, peers: Iterable[PeerId], now: float) -> list[PeerId]:
        """Those neighbours that can be asked for one piece more."""
        resting, load, most = self._resting, self._load, self.most_at_one
        return [peer for peer in peers if load[peer] < most and resting.get(peer, 0.0) <= now]

    def sent(self, peer: PeerId, digest: Digest, piece: int, now: float) -> None:
        """A request has gone out."""
        self._asked.setdefault((digest, piece), {})[peer] = _Asked(now)
        self._load[peer] += 1
        self._heard.setdefault(peer, now)
        self.count += 1

    def began(self, peer: PeerId, digest: Digest, piece: int, now: float) -> bool:
        """The first byte of a piece has come; False where it was not asked for (any more)."""
        asked = self._asked.get((digest, piece), {}).get(peer)
        if asked is None:
            return False
        asked.began = True
        latency = now - asked.at
        if latency < self._latency or now - self._latency_at > _LATENCY_SECONDS:
            self._latency, self._latency_at = latency, now
        return True

    def seconds(self, peer: PeerId, digest: Digest, piece: int, now: float) -> float | None:
        """Since a neighbour was asked for a piece; None where it was not (any more)."""
        asked = self._asked.get((digest, piece), {}).get(peer)
        return None if asked is None else now - asked.at

    def done(self, peer: PeerId, digest: Digest, piece: int, size: int, now: float) -> list[PeerId]:
        """A piece of `size` bytes has come; returns the other neighbours that were asked for it: cancel there."""
        asked = self._asked.get((digest, piece), {}).get(peer)
        if asked is not None:
            took = now - asked.at
            self._took[peer] = _smoothed(self._took.get(peer, took), took)
            self._service = _smoothed(self._service or took, took)
        others = [other for other in self._asked.get((digest, piece), ()) if other != peer]
        for other in [peer, *others]:
            self.forget(other, digest, piece)
        self._adapt(size, now)
        return others

    def forget(self, peer: PeerId, digest: Digest, piece: int) -> bool:
        """A request came to nothing. Returns whether nobody is asked for the piece any more."""
        askers = self._asked.get((digest, piece))
        if askers is None or askers.pop(peer, None) is None:
            return False
        self._load[peer] -= 1
        self.count -= 1
        if not askers:
            del self._asked[digest, piece]
        return not askers

    def busy(self, peer: PeerId, now: float) -> None:
        """A neighbour turned a request away."""
        self._resting[peer] = now + _REST_SECONDS

    def ready(self, peer: PeerId) -> None:
        """A neighbour calls: it has room."""
        self._resting.pop(peer, None)

    def heard(self, peer: PeerId, now: float) -> None:
        """Bytes came from a neighbour."""
        self._heard[peer] = now

    def drop(self, peer: PeerId) -> list[Key]:
        """A neighbour is gone; returns the pieces that nobody is asked for any more."""
        orphans = [key for key in [k for k, askers in self._asked.items() if peer in askers] if self.forget(peer, *key)]
        for books in (self._load, self._resting, self._heard, self._took):
            books.pop(peer, None)
        return orphans

    def withdraw(self, digest: Digest) -> list[tuple[PeerId, int]]:
        """A blob is closed; returns the requests to cancel."""
        open_requests = [(peer, key[1]) for key, askers in self._asked.items() if key[0] == digest for peer in askers]
        for peer, piece in open_requests:
            self.forget(peer, digest, piece)
        return open_requests

    def stuck(self, now: float) -> list[PeerId]:
        """Neighbours with requests outstanding from which nothing has come for too long."""
        patience = max(_MIN_PATIENCE, _PATIENCE * self._service)
        return [
            peer
            for peer, heard in self._heard.items()
            if self._load[peer] and now - heard > patience and self._oldest(peer) < now - patience
        ]

    def rest_long(self, peer: PeerId, now: float, seconds: float) -> None:
        """Leave a neighbour alone for a while."""
        self._resting[peer] = now + seconds

    def _oldest(self, peer: PeerId) -> float:
        return min(askers[peer].at for askers in self._asked.values() if peer in askers)

    def _adapt(self, size: int, now: float) -> None:
        self._window_bytes += size
        elapsed = now - self._window_start
        if elapsed < _RATE_SECONDS:
            return
        self._rate = self._window_bytes / elapsed
        self._window_start, self._window_bytes = now, 0
        self._covering = round(_COVER * self._rate * self._latency / max(size, 1)) + UPLOAD_SLOTS


def _smoothed(before: float, sample: float) -> float:
    return before + _SMOOTHING * (sample - before)
