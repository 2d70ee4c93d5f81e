"""What a store gives up, and in which order. No I/O, and no clock of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from peer.references import Image, References
from shoal.descriptor import BlobKey
from shoal.digest import Digest

RECENT_SECONDS = 60.0
"""An image of which something was used so short a time ago is in use: its client fetches one layer after the other."""

GRACE_SECONDS = 600.0
"""A blob that no manifest needs may be about to be needed: its manifest may be on its way."""

Reason = Literal["quarantined", "unneeded", "partial", "image"]


class Kept(NamedTuple):
    """A blob, or a partial one, on the disk."""

    size: int
    """Bytes that removing it frees."""
    used: float
    """When it was last read or written, in seconds of the store's clock."""


class Victim(NamedTuple):
    """What goes together: a quarantined file, a blob that no manifest needs, a parked partial blob, or an image."""

    reason: Reason
    root: Digest
    blobs: tuple[BlobKey, ...]
    """An image's manifests come first: of what a crash leaves of it, the rest is needed by no manifest then."""
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Stock:
    """What is on the disk at one moment, and what must stay."""

    blobs: Mapping[Digest, Kept]
    quarantined: Mapping[Digest, Kept]
    """Files that were not what they should be."""
    parked: Mapping[BlobKey, Kept]
    """Partial blobs that nobody has open."""
    references: References
    pinned: Collection[Digest]
    reading: Collection[Digest]
    """Blobs that are open."""
    writing: Collection[Digest]
    """Blobs on their way: an image that waits for one is in use."""


def victims(stock: Stock, now: float) -> Iterator[Victim]:
    """All that may go: quarantined files, unneeded blobs, parked partial ones, then images, least recently used first.

    Never goes what is pinned, with all that it needs, what is open or on its way, or was used a moment ago. A blob that
    several images share goes with the last of them.
    """
    pinned = stock.references.kept_by(stock.pinned)
    images = list(stock.references.images())
    needs = Counter(digest for image in images for digest in image.members)
    yield from spoilt(stock)
    yield from _unneeded(stock, pinned, needs, now)
    for key, kept in sorted(stock.parked.items(), key=lambda entry: entry[1].used):
        yield Victim("partial", key.digest, (key,), kept.size)
    needs.update(pinned)
    evictable = [(_last_use(image, stock, needs), image) for image in images if not image.manifests & pinned]
    for used, image in sorted(evictable, key=lambda entry: (entry[0], entry[1].root)):
        if now - used < RECENT_SECONDS:
            return
        own = [digest for digest in image.members if needs[digest] == 1]
        if not _is_idle(image, own, stock, now):
            continue
        needs.subtract(image.members)
        stored = [BlobKey(digest, stock.blobs[digest].size) for digest in own if digest in stock.blobs]
        if not stored:
            continue
        stored.sort(key=lambda key: (key.digest != image.root, key.digest not in image.manifests, key))
        yield Victim("image", image.root, tuple(stored), sum(key.size for key in stored))


def spoilt(stock: Stock) -> Iterator[Victim]:
    """The files in quarantine, the oldest first."""
    for digest, kept in sorted(stock.quarantined.items(), key=lambda entry: entry[1].used):
        yield Victim("quarantined", digest, (BlobKey(digest, kept.size),), kept.size)


def unneeded(stock: Stock, now: float) -> Iterator[Victim]:
    """The blobs that no manifest needs, and no pin keeps, of which nobody has taken notice for some time."""
    needs = stock.references.needed()
    return _unneeded(stock, stock.references.kept_by(stock.pinned), needs, now)


def _unneeded(stock: Stock, pinned: Collection[Digest], needed: Collection[Digest], now: float) -> Iterator[Victim]:
    found = [
        (kept.used, digest, kept.size)
        for digest, kept in stock.blobs.items()
        if digest not in needed and digest not in pinned and digest not in stock.reading
    ]
    for used, digest, size in sorted(found):
        if now - used >= GRACE_SECONDS:
            yield Victim("unneeded", digest, (BlobKey(digest, size),), size)


def _last_use(image: Image, stock: Stock, needs: Mapping[Digest, int]) -> float:
    """A base layer that others share says nothing of this image."""
    own = (stock.blobs[digest].used for digest in image.members if needs[digest] == 1 and digest in stock.blobs)
    return max(own, default=stock.blobs[image.root].used if image.root in stock.blobs else 0.0)


def _is_idle(image: Image, own: Collection[Digest], stock: Stock, now: float) -> bool:
    if any(digest in stock.writing for digest in image.members):
        return False
    stored = [digest for digest in own if digest in stock.blobs]
    return all(digest not in stock.reading and now - stock.blobs[digest].used >= RECENT_SECONDS for digest in stored)
