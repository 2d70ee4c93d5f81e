"""Typed messages of both protocols: msgpack bytes outside, frozen structures inside, one encode and one decode.

Every field has bounds, which are checked before anything is allocated for it; unknown fields are ignored.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, Generic, Protocol, TypeVar

import msgspec

from shoal.descriptor import BlobKey
from shoal.digest import Digest, InvalidDigest
from shoal.pieces import MAX_BLOB_SIZE, MAX_PIECES, PIECE_DIGEST_SIZE, PieceLayout, PieceSet, from_bitfield

DigestText = Annotated[str, msgspec.Meta(max_length=160)]
BlobSize = Annotated[int, msgspec.Meta(ge=0, le=MAX_BLOB_SIZE)]
PieceNumber = Annotated[int, msgspec.Meta(ge=0, lt=MAX_PIECES)]
PieceCount = Annotated[int, msgspec.Meta(ge=0, le=MAX_PIECES)]
Bitfield = Annotated[bytes, msgspec.Meta(max_length=MAX_PIECES // 8)]
PieceDigests = Annotated[bytes, msgspec.Meta(max_length=MAX_PIECES * PIECE_DIGEST_SIZE)]


class InvalidMessage(ValueError):
    """Bytes that are no message of the expected kinds."""


class Message(msgspec.Struct, frozen=True, gc=False, tag_field="t", tag=str.lower, omit_defaults=True):
    """Base of all messages; the field `t` holds the lower-case name of the kind.

    `gc`: they hold no cycles, and the garbage collector need not look for any.
    """


class BlobRef(msgspec.Struct, frozen=True, gc=False):
    """Which blob is meant. A blob is digest and size as long as nobody has verified its bytes."""

    digest: DigestText
    size: BlobSize


class NamesBlob(Protocol):
    """A message, or a part of one, that is about one blob."""

    @property
    def digest(self) -> str: ...

    @property
    def size(self) -> int: ...


def key_of(message: NamesBlob) -> BlobKey:
    """The blob that a message is about; raises `InvalidMessage`."""
    return _key(message.digest, message.size)


@functools.lru_cache(maxsize=8192)
def _key(digest: str, size: int) -> BlobKey:
    try:
        return BlobKey(Digest(digest), size)
    except InvalidDigest as error:
        raise InvalidMessage(str(error)) from None


def pieces_of(bitfield: bytes, layout: PieceLayout) -> PieceSet:
    """The pieces of a message's bitfield; raises `InvalidMessage` where it is not one of this layout."""
    try:
        return from_bitfield(bitfield, layout.count)
    except ValueError as error:
        raise InvalidMessage(str(error)) from None


M = TypeVar("M")


class Codec(Generic[M]):
    """Encodes and decodes the messages of one protocol in one direction.

    `kinds` is a message class or the union of several, `limit` the largest encoded message in bytes. To be made at
    import: msgspec 0.22 crashes where two threads are the first to use a type together.
    """

    def __init__(self, kinds: Any, limit: int) -> None:
        self._encoder = msgspec.msgpack.Encoder(enc_hook=str)
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(kinds)
        self.limit = limit

    def encode(self, message: M) -> bytes:
        """The message as bytes; raises `InvalidMessage` where it is over the limit."""
        data = self._encoder.encode(message)
        if len(data) > self.limit:
            raise InvalidMessage(f"a {type(message).__name__} of {len(data)} bytes is over the limit of {self.limit}")
        return data

    def decode(self, data: bytes | memoryview) -> M:
        """The message that `data` holds; raises `InvalidMessage`."""
        if len(data) > self.limit:
            raise InvalidMessage(f"a message of {len(data)} bytes is over the limit of {self.limit}")
        try:
            return self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidMessage(f"not a message: {str(error)[:200]}") from None
