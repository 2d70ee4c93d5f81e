"""How many bytes of long answers, such as lists of tags, are in memory at a time: those that come, or are being taken.

Blobs are read from files and cost nothing of the kind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from peer.origin import OriginUnavailable

LONG = 64 << 10
"""Bytes from which an answer counts: a shorter one fits into the buffers of its connection."""

_MOST = 64 << 20


class MemoryFull(OriginUnavailable):
    """There is no room for one more long answer."""


class AnswerMemory:
    """Counts what is held. No I/O."""

    def __init__(self, most: int = _MOST) -> None:
        """`most`: bytes."""
        self._most = most
        self._holdings: list[_Holding] = []

    @property
    def held(self) -> int:
        """Bytes."""
        return sum(holding.size for holding in self._holdings)

    @contextlib.contextmanager
    def holding(self, cut: Callable[[], None] | None = None) -> Iterator[Callable[[int], None]]:
        """Gives a function that takes room for so many more bytes, and raises `MemoryFull` where there is none.

        With `cut` it may be called to make room for others: whoever has held an answer for longest has taken it most
        slowly, and nobody shall keep others from theirs.
        """
        holding = _Holding(cut)
        self._holdings.append(holding)
        try:
            yield lambda size: self._take(holding, size)
        finally:
            if holding in self._holdings:
                self._holdings.remove(holding)

    def _take(self, holding: _Holding, size: int) -> None:
        while self.held + size > self._most:
            oldest = next((each for each in self._holdings if each is not holding and each.cut is not None), None)
            if oldest is None or oldest.cut is None:
                raise MemoryFull("this mirror has as many long answers in memory as it may have: ask again")
            self._holdings.remove(oldest)
            oldest.cut()
        holding.size += size


class _Holding:
    """What one answer takes."""

    def __init__(self, cut: Callable[[], None] | None) -> None:
        self.cut = cut
        self.size = 0
