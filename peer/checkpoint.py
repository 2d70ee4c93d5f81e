"""What the store writes down of a partial blob, so that a restart goes on from there.

A checkpoint claims pieces that are on the disk for certain. Its file is 32 bytes of BLAKE3 over the rest, then a
msgpack message; whatever does not fit, in the checksum or in any field, voids it as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import blake3
import msgspec

from shoal.digest import Digest
from shoal.pieces import PIECE_DIGEST_SIZE, PieceLayout, PieceSet, from_bitfield, to_bitfield
from shoal.records import RecordCodec

MAX_CHECKPOINT_SIZE = 4 << 20
"""Bytes; the largest blob has 131,072 pieces, whose digests take 2 MiB."""

_VERSION = 2
_CHECKSUM_SIZE = 32


class InvalidCheckpoint(ValueError):
    """Bytes that are not a checkpoint of this version, or were altered."""


class _State(msgspec.Struct, frozen=True, tag_field="t", tag="partial"):
    version: int
    digest: str
    size: int
    piece_size: int
    mtime_ns: int
    have: bytes
    listed: bytes
    """The pieces whose digests follow, in ascending order."""
    digests: bytes


_codec = RecordCodec(_State, MAX_CHECKPOINT_SIZE - _CHECKSUM_SIZE)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The pieces of a blob that are on the disk, and the digests known of them (`shoal.pieces.piece_digest`)."""

    digest: Digest
    layout: PieceLayout
    have: PieceSet
    table: Mapping[int, bytes]
    mtime_ns: int
    """When the data file was last written to, in nanoseconds since 1970 by its file system's clock."""

    def encode(self) -> bytes:
        """The checkpoint as its file holds it; digests of pieces that are not had are left out."""
        have = to_bitfield(self.have, self.layout.count)
        listed = bytearray(len(have))
        digests = bytearray()
        for index in sorted(self.table):
            if _holds(have, index):
                listed[index >> 3] |= 1 << (index & 7)
                digests += self.table[index]
        layout = self.layout
        body = _codec.encode(
            _State(
                _VERSION,
                str(self.digest),
                layout.size,
                layout.piece_size,
                self.mtime_ns,
                have,
                bytes(listed),
                bytes(digests),
            )
        )
        return _checksum(body) + body

    @classmethod
    def decode(cls, content: bytes) -> Checkpoint:
        """The checkpoint that a file holds; raises `InvalidCheckpoint`."""
        checksum, body = content[:_CHECKSUM_SIZE], content[_CHECKSUM_SIZE:]
        if checksum != _checksum(body):
            raise InvalidCheckpoint("the checksum does not match")
        try:
            state = _codec.decode(body)
            if state.version != _VERSION:
                raise InvalidCheckpoint(f"version {state.version} instead of {_VERSION}")
            layout = PieceLayout.of(state.size)
            if state.piece_size != layout.piece_size:
                raise InvalidCheckpoint(f"pieces of {state.piece_size} bytes instead of {layout.piece_size}")
            have = from_bitfield(state.have, layout.count)
            if from_bitfield(state.listed, layout.count) & ~have:
                raise InvalidCheckpoint("digests of pieces that are not there")
            return cls(Digest(state.digest), layout, have, _table(state, layout.count), state.mtime_ns)
        except ValueError as error:
            raise InvalidCheckpoint(str(error)) from None


def _table(state: _State, count: int) -> dict[int, bytes]:
    listed = [index for index in range(count) if _holds(state.listed, index)]
    if len(state.digests) != len(listed) * PIECE_DIGEST_SIZE:
        raise InvalidCheckpoint(f"{len(state.digests)} bytes of digests for {len(listed)} pieces")
    return {
        index: state.digests[place * PIECE_DIGEST_SIZE : (place + 1) * PIECE_DIGEST_SIZE]
        for place, index in enumerate(listed)
    }


def _holds(bitfield: bytes, index: int) -> bool:
    """Whether a piece is in a bitfield; unlike a shift of a large integer it takes the same time for any of them."""
    return bool(bitfield[index >> 3] >> (index & 7) & 1)


def _checksum(body: bytes) -> bytes:
    return blake3.blake3(body).digest(_CHECKSUM_SIZE)
