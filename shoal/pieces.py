"""How a blob is cut into pieces, and sets of pieces.

A set of pieces is a Python integer with bit `i` set for piece `i`: unions, differences and counts of thousands of
pieces are then single operations of some hundred nanoseconds.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NewType

import blake3

from shoal.ranges import ByteRange

PieceIndex = NewType("PieceIndex", int)
PieceSet = int
"""Bit `i` stands for piece `i`."""

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
MAX_BLOB_SIZE = 1 << 40
"""Bytes; what is larger is refused before anything is allocated for it."""

PIECE_DIGEST_SIZE = 16
"""Bytes of BLAKE3 that stand for a piece (design, section 4)."""

_BLOCK = 2048
_BLOCK_MASK = (1 << _BLOCK) - 1
"""Pieces that are looked at together: to go through the 131,072 of the largest blob one by one in the whole set is
quadratic, and took a second."""

_SINGLE_PIECE_SIZE = 64 * KIB
_PIECE_SIZES = ((256 * MIB, 256 * KIB), (1 * GIB, 1 * MIB), (16 * GIB, 4 * MIB), (MAX_BLOB_SIZE, 8 * MIB))
"""Blobs up to the first figure have pieces of the second: Mundinger et al. 2008, (1 + floor(log2 N)/M) of the bound."""

MAX_PIECE_SIZE = 8 * MIB
MAX_PIECES = MAX_BLOB_SIZE // MAX_PIECE_SIZE
"""Of the largest blob; no other has more."""


@dataclass(frozen=True, slots=True)
class PieceLayout:
    """The pieces of a blob of `size` bytes. A blob of no bytes has one piece of no bytes."""

    size: int
    piece_size: int
    count: int

    @classmethod
    def of(cls, size: int) -> PieceLayout:
        """The layout that every peer uses for a blob of `size` bytes; raises `ValueError` out of bounds."""
        if not 0 <= size <= MAX_BLOB_SIZE:
            raise ValueError(f"a blob of {size} bytes is outside 0 to {MAX_BLOB_SIZE}")
        if size <= _SINGLE_PIECE_SIZE:
            return cls(size, _SINGLE_PIECE_SIZE, 1)
        piece_size = next(piece for limit, piece in _PIECE_SIZES if size <= limit)
        return cls(size, piece_size, -(-size // piece_size))

    @property
    def all(self) -> PieceSet:
        return (1 << self.count) - 1

    @property
    def last(self) -> PieceIndex:
        return PieceIndex(self.count - 1)

    def span(self, index: int) -> ByteRange:
        """The bytes of piece `index`."""
        start = index * self.piece_size
        return ByteRange(start, min(start + self.piece_size, self.size))

    def length(self, index: int) -> int:
        """Bytes of piece `index`."""
        return self.span(index).length

    def at(self, offset: int) -> PieceIndex:
        """The piece that holds the byte at `offset`."""
        return PieceIndex(min(offset // self.piece_size, self.count - 1))

    def bytes_of(self, pieces: PieceSet) -> int:
        """Bytes of all pieces of a set."""
        total = pieces.bit_count() * self.piece_size
        return total - (self.piece_size - self.length(self.last)) if pieces >> self.last & 1 else total

    def is_valid(self, index: int) -> bool:
        return 0 <= index < self.count


def piece_digest(content: bytes | bytearray | memoryview) -> bytes:
    """The digest by which peers check a piece: the first 16 bytes of BLAKE3."""
    return blake3.blake3(content).digest(PIECE_DIGEST_SIZE)


def run_of(first: int, count: int) -> PieceSet:
    """The set of pieces `first` to `first + count - 1`."""
    return ((1 << count) - 1) << first


def iterate(pieces: PieceSet) -> Iterator[PieceIndex]:
    """The pieces of a set, ascending."""
    base = 0
    while pieces:
        block = pieces & _BLOCK_MASK
        while block:
            low = block & -block
            yield PieceIndex(base + low.bit_length() - 1)
            block ^= low
        pieces >>= _BLOCK
        base += _BLOCK


def set_of(pieces: Iterable[int]) -> PieceSet:
    """The set of these pieces."""
    blocks: dict[int, PieceSet] = {}
    for piece in pieces:
        block = piece // _BLOCK
        blocks[block] = blocks.get(block, 0) | 1 << piece % _BLOCK
    found = 0
    for block, bits in blocks.items():
        found |= bits << block * _BLOCK
    return found


def lowest(pieces: PieceSet) -> PieceIndex:
    """The first piece of a set that is not empty."""
    return PieceIndex((pieces & -pieces).bit_length() - 1)


def leading_run(pieces: PieceSet, first: int) -> int:
    """How many consecutive pieces from `first` on are in the set."""
    missing = ~(pieces >> first)
    return (missing & -missing).bit_length() - 1


def trailing_run(pieces: PieceSet, end: int) -> int:
    """How many consecutive pieces in front of `end` are in the set."""
    return end - (~pieces & (1 << end) - 1).bit_length()


def first_of(pieces: PieceSet, count: int) -> PieceSet:
    """The first so many pieces of a set, or all where it has no more."""
    if pieces.bit_count() <= count:
        return pieces
    first = lowest(pieces)
    run = leading_run(pieces, first)
    if run >= count:
        return run_of(first, count)
    return set_of(itertools.islice(iterate(pieces), count))


def pick(pieces: PieceSet, rng: random.Random) -> PieceIndex:
    """A random piece of a set that is not empty: the first one at or above a random place, around the end."""
    place = rng.randrange(pieces.bit_length())
    return lowest((pieces >> place << place) or pieces)


def to_bitfield(pieces: PieceSet, count: int) -> bytes:
    """The set as bytes, little-endian: piece 0 is the lowest bit of the first byte."""
    return pieces.to_bytes((count + 7) // 8, "little")


def from_bitfield(data: bytes, count: int) -> PieceSet:
    """The set that `to_bitfield` made; raises `ValueError` for a wrong length or pieces beyond `count`."""
    pieces = int.from_bytes(data, "little")
    if len(data) != (count + 7) // 8 or pieces >> count:
        raise ValueError(f"a bitfield of {len(data)} bytes does not fit {count} pieces")
    return pieces
