"""The protocol between two peers, without any socket: frames and messages.

A frame is a length in four bytes, big-endian, and that many bytes. With the top bit clear they are a msgpack message;
with it set they are the next chunk of the piece that the last `Piece` message began. So a piece's bytes travel raw, and
other messages may stand between its chunks instead of waiting behind megabytes.

Where the cluster has a secret, a handshake (`shoal.handshake`) comes before the first frame, and messages are sealed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import msgspec

from shoal.handshake import UNSEALED, Session, Unsealed, is_opening
from shoal.messages import (
    Bitfield,
    BlobRef,
    BlobSize,
    Codec,
    DigestText,
    InvalidMessage,
    Message,
    PieceDigests,
    PieceNumber,
)
from shoal.pieces import MAX_PIECE_SIZE

VERSION = 2
MAX_MESSAGE_SIZE = 256 << 10
"""Bytes of one message, the chunks of pieces aside."""

MAX_JOINED = 1024
"""Blobs in one `Join`."""

_PREFIX = struct.Struct(">I")
_CHUNK_FLAG = 1 << 31
_SCRATCH_SIZE = 64 << 10
_STRANGER_LIMIT, _STRANGER_SCRATCH_SIZE = 1 << 10, 2 << 10
"""Bytes of one message, and of the scratch buffer, until the other side has said who it is."""

_TLS_HANDSHAKE = 0x1603
"""How a TLS connection begins: the type of a record, and the first half of its version."""

_PeerText = Annotated[str, msgspec.Meta(max_length=64)]


class Hello(Message, frozen=True):
    """First message in both directions."""

    version: Annotated[int, msgspec.Meta(ge=0, le=1 << 16)]
    peer: _PeerText


class Joined(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A blob that the sender has pieces of; `have` is empty where it has all of them."""

    digest: DigestText
    size: BlobSize
    have: Bitfield = b""


class Join(Message, frozen=True):
    """The sender is in these swarms; answered in kind, or with `Part` for those that the receiver is not in."""

    blobs: Annotated[list[Joined], msgspec.Meta(max_length=MAX_JOINED)]


class Part(Message, frozen=True):
    """The sender is not (any more) in these swarms."""

    blobs: Annotated[list[BlobRef], msgspec.Meta(max_length=MAX_JOINED)]


class Have(Message, frozen=True):
    """The sender has more pieces of a blob."""

    digest: DigestText
    size: BlobSize
    pieces: Annotated[list[PieceNumber], msgspec.Meta(max_length=4096)]
    digests: PieceDigests = b""
    """Of these pieces in this order, where the sender fetched them from an origin and no supernode tells of it."""


class Coming(Message, frozen=True):
    """All the pieces of a blob that come to the sender from an origin without a lease."""

    digest: DigestText
    size: BlobSize
    pieces: Bitfield


class Request(Message, frozen=True):
    """Asks for a piece; answered with `Piece`, `Busy` or `Absent`."""

    digest: DigestText
    size: BlobSize
    piece: PieceNumber
    preheats: bool = False
    """Whether no client waits for it."""
    trace: Annotated[bytes, msgspec.Meta(max_length=25)] = b""
    """What the sender waits for it in, where that is traced: ids of a trace and a span, 16 and 8 bytes, and flags."""


class Cancel(Message, frozen=True):
    """A request is void, if it is not being served already."""

    digest: DigestText
    size: BlobSize
    piece: PieceNumber


class Busy(Message, frozen=True):
    """All upload slots are taken: ask somebody else. `Ready` follows when one is free for the asker."""

    digest: DigestText
    size: BlobSize
    piece: PieceNumber


class Absent(Message, frozen=True):
    """The sender does not have that piece."""

    digest: DigestText
    size: BlobSize
    piece: PieceNumber


class Ready(Message, frozen=True):
    """An upload slot is free for the receiver."""


class Piece(Message, frozen=True):
    """The chunks that follow are this piece, `length` bytes in all."""

    digest: DigestText
    size: BlobSize
    piece: PieceNumber
    length: Annotated[int, msgspec.Meta(ge=0, le=MAX_PIECE_SIZE)]


Kinds = Hello | Join | Part | Have | Coming | Request | Cancel | Busy | Absent | Ready | Piece
codec: Codec[Kinds] = Codec(Kinds, MAX_MESSAGE_SIZE)


@dataclass(slots=True)
class PieceReceived:
    """An event: all bytes of a piece are there. `buffer` is None where the piece was not wanted and was dropped."""

    message: Piece
    buffer: bytearray | None


Event = Kinds | PieceReceived


def framed(data: bytes) -> bytes:
    """An encoded message with its length in front."""
    return _PREFIX.pack(len(data)) + data


def frame(message: Kinds, session: Session | Unsealed = UNSEALED) -> bytes:
    """A message, sealed as the next one of a session, with its length in front."""
    return framed(session.seal(codec.encode(message)))


def chunk_prefix(length: int) -> bytes:
    """What stands in front of a chunk of `length` bytes."""
    return _PREFIX.pack(_CHUNK_FLAG | length)


class Decoder:
    """Turns received bytes into events: receive into `buffer()`, call `received(count)`, then `received(0)` until it
    returns nothing.

    Until `greeted()` is called the other side is a stranger: its messages come out one at a time and have to be short.
    `accept` is asked at the start of each piece for the memory to put it in (of just its length), or None to drop it.
    """

    def __init__(self, accept: Callable[[Piece], bytearray | None], session: Session | Unsealed = UNSEALED) -> None:
        self._accept = accept
        self._session = session
        self._is_stranger = True
        self.limit = _STRANGER_LIMIT
        """Bytes of the largest message that is taken."""
        self._usual_size = _STRANGER_SCRATCH_SIZE
        self._scratch = bytearray(self._usual_size)
        self._view = memoryview(self._scratch)
        self._start = self._end = 0
        self._piece: Piece | None = None
        self._target: bytearray | None = None
        self._target_view = memoryview(b"")
        self._filled = 0
        self._chunk = 0

    def greeted(self) -> None:
        """The other side has said who it is: from here on large messages are taken."""
        self._is_stranger = False
        self.limit = MAX_MESSAGE_SIZE
        self._usual_size = _SCRATCH_SIZE
        self._make_room()

    @property
    def chunk_left(self) -> int:
        """Bytes of a piece that come before anything else can; 0 between chunks."""
        return self._chunk

    def buffer(self) -> memoryview:
        """Where the next bytes go: straight into the piece inside a long chunk, otherwise into the scratch buffer."""
        if self._chunk and self._target is not None and self._start == self._end:
            return self._target_view[self._filled : self._filled + self._chunk]
        if self._end == len(self._scratch):
            self._make_room()
        return self._view[self._end :]

    def received(self, count: int) -> list[Event]:
        """Take note of `count` bytes put into `buffer()`; raises `InvalidMessage`, after which nothing may follow."""
        events: list[Event] = []
        if self._chunk and self._target is not None and self._start == self._end:
            self._advance(count, events)
            return events
        self._end += count
        while self._parse(events):
            if self._is_stranger and events:
                break
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._scratch) > self._usual_size:
                self._make_room()
        return events

    def _make_room(self) -> None:
        """Move what is not parsed yet to the front of a new scratch buffer, of twice its size where that is much."""
        rest = self._view[self._start : self._end]
        larger = min(2 * len(rest), self.limit + self._session.overhead + _PREFIX.size)
        self._scratch = bytearray(max(self._usual_size, larger))
        self._view = memoryview(self._scratch)
        self._view[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def _parse(self, events: list[Event]) -> bool:
        available = self._end - self._start
        if self._chunk:
            taken = min(available, self._chunk)
            if taken and self._target is not None:
                self._target_view[self._filled : self._filled + taken] = self._view[self._start : self._start + taken]
            self._start += taken
            if taken:
                self._advance(taken, events)
            return taken > 0
        if available < _PREFIX.size:
            return False
        (length,) = _PREFIX.unpack_from(self._scratch, self._start)
        if length & _CHUNK_FLAG:
            self._begin_chunk(length & ~_CHUNK_FLAG)
            self._start += _PREFIX.size
            return True
        if self._is_stranger and length >> 16 == _TLS_HANDSHAKE:
            raise InvalidMessage("the other side speaks TLS, and this node has no certificates (`cluster.cert_file`)")
        if length > self.limit + self._session.overhead:
            raise InvalidMessage(f"a message of {length} bytes is over the limit of {self.limit}")
        if available < _PREFIX.size + length:
            return False
        begin = self._start + _PREFIX.size
        message = self._decoded(self._view[begin : begin + length])
        self._start = begin + length
        if isinstance(message, Piece):
            self._begin_piece(message, events)
        else:
            events.append(message)
        return True

    def _decoded(self, data: memoryview) -> Kinds:
        if self._is_stranger and self._session is UNSEALED and is_opening(data):
            raise InvalidMessage("the other side wants a proof of a cluster secret, and this node has none")
        return codec.decode(self._session.open(data))

    def _begin_piece(self, message: Piece, events: list[Event]) -> None:
        if self._piece is not None:
            raise InvalidMessage("a piece inside a piece")
        self._piece, self._filled = message, 0
        self._target = self._accept(message)
        self._target_view = memoryview(self._target) if self._target is not None else memoryview(b"")
        if message.length == 0:
            self._advance(0, events)

    def _begin_chunk(self, length: int) -> None:
        if self._piece is None or not 0 < length <= self._piece.length - self._filled:
            raise InvalidMessage(f"a chunk of {length} bytes that belongs to no piece")
        self._chunk = length

    def _advance(self, count: int, events: list[Event]) -> None:
        assert self._piece is not None
        self._filled += count
        self._chunk -= count
        if self._filled == self._piece.length:
            events.append(PieceReceived(self._piece, self._target))
            self._piece = self._target = None
            self._target_view = memoryview(b"")
