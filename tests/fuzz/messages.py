"""Decoders of the wire and control protocols, and of what is kept as records."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, cast

import blake3

from peer import wire
from peer.checkpoint import Checkpoint, InvalidCheckpoint
from peer.wire import Decoder, PieceReceived
from proxy.doorway import MAX_HEAD
from shoal.handshake import NONCE_SIZE, Initiator, NotAMember, Responder, SecretKey, Session, is_opening
from shoal.messages import Codec, InvalidMessage, Message
from shoal.pieces import PieceLayout
from supernode import protocol
from tests.fuzz.target import Target
from tests.proxy.test_doorway import World

_TAKEN = 64 << 10
"""Bytes of the largest piece that a target takes: what is longer is dropped, as an engine may do."""
_KEY = SecretKey(b"k" * 32)
_SCRATCH, _STRANGER_SCRATCH = 64 << 10, 2 << 10


def _cuts(data: bytes, seed: int) -> Iterator[bytes]:
    """`data` in reads of sizes that `seed` chooses."""
    place, size = 0, 1 + seed % 7
    while place < len(data):
        yield data[place : place + size]
        place += size
        size = 1 + (size * 31 + seed) % 97


def _events(reads: Iterator[bytes], *, stranger: bool, wanted: bool) -> tuple[list[object], bool]:
    """What comes out of a decoder, and whether it refused what came."""
    decoder = Decoder(lambda piece: bytearray(piece.length) if wanted and piece.length <= _TAKEN else None)
    if not stranger:
        decoder.greeted()
    events: list[object] = []
    try:
        for read in reads:
            rest = read
            while rest:
                buffer = decoder.buffer()
                count = min(len(buffer), len(rest))
                buffer[:count], rest = rest[:count], rest[count:]
                while new := decoder.received(count):
                    events += [(each.message, each.buffer) if isinstance(each, PieceReceived) else each for each in new]
                    count = 0
            held = len(cast("bytearray", decoder.buffer().obj))
            assert held <= max(decoder.limit + 4, _STRANGER_SCRATCH if stranger else _SCRATCH)
    except InvalidMessage:
        return events, True
    return events, False


def wire_stream(data: bytes) -> None:
    """A stream gives the same events wherever it is cut."""
    if not data:
        return
    how, stream = data[0], data[1:]
    kind = {"stranger": bool(how & 1), "wanted": bool(how & 2)}
    whole, refused = _events(iter([stream]), **kind)
    cut, cut_refused = _events(_cuts(stream, how), **kind)
    assert refused == cut_refused
    assert cut[: len(whole)] == whole
    assert refused or cut == whole
    for event in cut:
        if isinstance(event, Message):
            _comes_back(wire.codec, event)


def _comes_back(codec: Codec[Any], message: object) -> None:
    assert codec.decode(codec.encode(message)) == message


def handshake(data: bytes) -> None:
    """Who does not know the secret proves nothing, whatever he says and in whatever order; no bytes pass for sealed."""
    nonce, messages = bytes(NONCE_SIZE), data.split(b"\n\n")[:4]
    initiator = Initiator(_KEY, "peer", "a" * 32, "b" * 32, nonce)
    for side in (Responder([_KEY], "peer", "b" * 32, nonce), initiator):
        with contextlib.suppress(NotAMember):
            for message in messages:
                side.received(message)
        assert side.session is None
    session = Session("a" * 32, sending=_KEY, receiving=_KEY)
    for message in messages:
        is_opening(message)
        with contextlib.suppress(NotAMember):
            session.open(memoryview(message))
            raise AssertionError("a message that nobody sealed")


def control(data: bytes) -> None:
    """A frame of a control connection, in either direction."""
    codecs: tuple[Codec[Any], ...] = (protocol.from_peer, protocol.from_supernode)
    for codec in codecs:
        with contextlib.suppress(InvalidMessage):
            _comes_back(codec, codec.decode(data))


def checkpoint(data: bytes) -> None:
    """The file of a partial blob, as it is and behind a checksum that is right."""
    for content in (data, blake3.blake3(data).digest() + data):
        with contextlib.suppress(InvalidCheckpoint):
            found = Checkpoint.decode(content)
            assert found.layout == PieceLayout.of(found.layout.size)
            assert not found.have & ~found.layout.all
            assert Checkpoint.decode(found.encode()) == found


def doorway(data: bytes) -> None:
    """The first bytes of a connection: the HTTP server or the tunnel gets all of them, wherever they are cut."""

    async def outcome(step: int) -> object:
        world = World()
        world.feed(data[1:], step)
        world.doorway.connection_lost(None)
        assert len(world.doorway.head) <= MAX_HEAD
        return world.http.received, world.connects and world.doorway.early, world.doorway.head, world.wire.written

    async def outcomes() -> list[object]:
        return [await outcome(step) for step in (1 << 20, 1 + data[0] % 97)]

    if data:
        whole, cut = asyncio.run(outcomes())
        assert whole == cut


TARGETS = [
    Target("wire", wire_stream, 60_000, limit=4096, pumped=False),
    Target("handshake", handshake, 40_000),
    Target("control", control, 100_000),
    Target("checkpoint", checkpoint, 30_000),
    Target("doorway", doorway, 15_000),
]
