"""What a client asks for of a blob, where that is not all of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from shoal.pieces import PieceLayout, PieceSet, run_of
from shoal.ranges import ByteRange


class Behind(enum.Enum):
    """What else is fetched behind the ranges that a client asks for."""

    NOTHING = enum.auto()
    REST = enum.auto()
    """The rest of the blob, when nobody waits for ranges of it."""
    IMAGE = enum.auto()
    """The rest of the blob at once, and the blobs behind it in its image."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Ranges of one blob, in the order in which they are to be given."""

    ranges: tuple[ByteRange, ...]
    behind: Behind

    def pieces(self, layout: PieceLayout) -> PieceSet:
        """The pieces that hold bytes of the ranges."""
        pieces = 0
        for each in self.ranges:
            first = layout.at(each.start)
            pieces |= run_of(first, layout.at(each.end - 1) - first + 1)
        return pieces
