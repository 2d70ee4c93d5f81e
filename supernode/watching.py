"""How often nodes are to report, and on what: often while somebody looks, else hardly ever. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from shoal.descriptor import BlobKey
from shoal.messages import BlobRef
from supernode.outbox import Outgoing
from supernode.protocol import PeerId
from supernode.report import MAX_WATCHED, Watch

LINGER_SECONDS = 10.0
"""So long after the last look nodes still report as if somebody looked: who looks, looks again."""
_LOOKED, _UNSEEN = 1.0, 60.0
"""Seconds between two reports of one node while somebody looks, and while nobody does."""
_REPORTS_LOOKED, _REPORTS_UNSEEN = 500.0, 50.0
"""Reports that come in a second at the most, from all nodes: with more nodes each one reports less often."""
_TOLERANCE = 1.5
"""By so much the interval has to differ from the one that nodes were told for them to be told again."""
_MAX_INTERVAL = 3600.0

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Subject:
    """What somebody looks at besides the figures of all nodes."""

    blobs: tuple[BlobKey, ...] = ()
    images: bool = False
    """Which images nodes have."""
    manifest: str = ""
    """The digest of a manifest of which it is to be told what it names; empty: of none."""


GLANCE = Subject()


class Watching:
    """Times are in seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._peers: set[PeerId] = set()
        self._told = Watch(_UNSEEN)
        self._looked_until = self._images_until = float("-inf")
        self._blobs: dict[BlobKey, float] = {}
        self._manifests: dict[str, float] = {}

    @property
    def interval(self) -> float:
        """Seconds between two reports of a node, as nodes were told."""
        return self._told.interval

    @property
    def manifests(self) -> Sequence[str]:
        """Those of which nodes were asked what they name."""
        return self._told.manifests

    def joined(self, peer: PeerId) -> Outgoing:
        """A node that reports has come."""
        self._peers.add(peer)
        return [peer], self._told

    def left(self, peer: PeerId) -> None:
        """A node is gone."""
        self._peers.discard(peer)

    def look(self, subject: Subject, now: float) -> None:
        """Somebody looks."""
        until = self._looked_until = now + LINGER_SECONDS
        if subject.images or subject.manifest:
            self._images_until = until
        for key in subject.blobs:
            _put(self._blobs, key, until)
        if subject.manifest:
            _put(self._manifests, subject.manifest, until)

    def decide(self, now: float) -> list[Outgoing]:
        """What nodes are to be told now. Call some times a second."""
        wanted = self._wanted(now)
        told = self._told
        ratio = wanted.interval / told.interval
        is_same = (wanted.blobs, wanted.images, wanted.manifests) == (told.blobs, told.images, told.manifests)
        if is_same and 1 / _TOLERANCE < ratio < _TOLERANCE:
            return []
        self._told = wanted
        peers: Sequence[PeerId] = list(self._peers)
        return [(peers, wanted)] if peers else []

    def _wanted(self, now: float) -> Watch:
        if now >= self._looked_until:
            self._blobs.clear()
            self._manifests.clear()
            return Watch(min(max(_UNSEEN, len(self._peers) / _REPORTS_UNSEEN), _MAX_INTERVAL))
        interval = min(max(_LOOKED, len(self._peers) / _REPORTS_LOOKED), _MAX_INTERVAL)
        blobs = [BlobRef(*key) for key in _current(self._blobs, now)]
        return Watch(interval, blobs, now < self._images_until, list(_current(self._manifests, now)))


def _put(table: dict[K, float], key: K, until: float) -> None:
    """Of more than may be looked at, those that were looked at last."""
    table.pop(key, None)
    table[key] = until
    while len(table) > MAX_WATCHED:
        del table[next(iter(table))]


def _current(table: dict[K, float], now: float) -> list[K]:
    for key in [key for key, until in table.items() if until <= now]:
        del table[key]
    return sorted(table, key=str)
