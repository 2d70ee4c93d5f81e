"""How much a store may hold: between two watermarks, and so that the disk keeps free space. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

_SPARE = 0.25
"""Where the disk is short of free space, so much more than the least is made, so that it is not short again at once."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The store and its disk at one moment, in bytes."""

    stored: int
    """What the store holds, and what blobs that are being written will hold when they are complete."""
    lacking: int
    """What the blobs that are being written will still take from the disk's free space."""
    free: int
    """What the disk has left, the lacking part included."""

    def after(self, freed: int) -> Usage:
        """What is left when so many bytes have been removed."""
        return Usage(self.stored - freed, self.lacking, self.free + freed)


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Bytes. Over `high`, or with less than `free` left on the disk, the store is emptied down to `low`."""

    high: int
    low: int
    free: int
    disk: int
    """The size of the disk."""

    def fit(self, size: int) -> bool:
        """Whether a blob of `size` bytes could be kept in an empty store on an empty disk."""
        return size <= self.high and size + self.free <= self.disk

    def have_room(self, usage: Usage, size: int) -> bool:
        """Whether `size` bytes more leave the store below its limits."""
        return usage.stored + size <= self.high and usage.free - usage.lacking - size >= self.free

    def surplus(self, usage: Usage, size: int) -> int:
        """Bytes to remove so that `size` more have room; not 0 only where they have none."""
        if self.have_room(usage, size):
            return 0
        over = usage.stored + size - self.low if usage.stored + size > self.high else 0
        left = usage.free - usage.lacking - size
        short = self.free + round(self.free * _SPARE) - left if left < self.free else 0
        return max(over, short)

    def above_low(self, usage: Usage) -> int:
        """Bytes to remove for the store to be at its low watermark, with the disk's least free space."""
        return max(0, usage.stored - self.low, self.free - (usage.free - usage.lacking))
