"""Memory for pieces that come in, used again and again: fresh memory costs a tenth of the time at 1 GB/s."""

from __future__ import annotations

from collections import defaultdict

from shoal.pieces import KIB, MIB

_MAX_KEPT = 16 * MIB
"""Bytes of memory that is kept while nobody uses it."""
_SMALL = 128 * KIB
"""Below this the allocator does as well."""


class Buffers:
    """Buffers by their length in bytes. For one thread."""

    def __init__(self) -> None:
        self._free: defaultdict[int, list[bytearray]] = defaultdict(list)
        self._kept = 0

    def take(self, length: int) -> bytearray:
        """A buffer of just `length` bytes, with anything in it."""
        free = self._free.get(length)
        if not free:
            return bytearray(length)
        self._kept -= length
        return free.pop()

    def give_back(self, buffer: bytearray) -> None:
        """Nobody refers to the buffer any more."""
        if len(buffer) >= _SMALL and self._kept + len(buffer) <= _MAX_KEPT:
            self._kept += len(buffer)
            self._free[len(buffer)].append(buffer)
