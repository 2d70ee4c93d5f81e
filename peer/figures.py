"""How full a store is, and how it is looked after: what operators are told, measured now and then."""

from __future__ import annotations

from typing import NamedTuple


class StoreFigures(NamedTuple):
    """One store and its disk at one moment. Bytes, and seconds since the epoch; 0 as long as nothing was measured."""

    size: int = 0
    """All that is stored: whole blobs, with what blobs on their way will have, and what was put aside."""
    limit: int = 0
    """The high watermark, above which the store gives up what was least recently used."""
    pinned: int = 0
    """Of stored blobs that pins keep."""
    quarantined: int = 0
    """Of files that were not what they should be."""
    disk_size: int = 0
    disk_free: int = 0
    """What anybody may still write to the disk."""
    reserve: int = 0
    """What the store leaves free of the disk."""
    oldest_check: float = 0.0
    """When the blob was hashed whose turn to be hashed again comes next; 0 where nothing is stored."""
