from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer import wire
from peer.wire import Decoder, PieceReceived, chunk_prefix, frame
from shoal.digest import Digest
from shoal.messages import InvalidMessage
from shoal.pieces import MAX_PIECE_SIZE

DIGEST = str(Digest.of(b"blob"))
MESSAGES: list[wire.Kinds] = [
    wire.Hello(1, 32 * "a"),
    wire.Join([wire.Joined(DIGEST, 10, b"\x01"), wire.Joined(DIGEST, 10)]),
    wire.Part([DIGEST]),
    wire.Have(DIGEST, [0, 5]),
    wire.Request(DIGEST, 3),
    wire.Cancel(DIGEST, 3),
    wire.Busy(DIGEST, 3),
    wire.Absent(DIGEST, 3),
    wire.Ready(),
]


def feed(decoder: Decoder, data: bytes, sizes: list[int]) -> list[wire.Event]:
    """Give `data` to the decoder in reads of these sizes, then in reads as large as it takes."""
    events: list[wire.Event] = []
    while data:
        buffer = decoder.buffer()
        count = min(len(buffer), len(data), sizes.pop(0) if sizes else len(data))
        buffer[:count] = data[:count]
        data = data[count:]
        events += decoder.received(count)
    return events


def piece(content: bytes, chunks: list[int], between: bytes = b"") -> bytes:
    """A piece in chunks of these sizes, with messages between them."""
    data, start = frame(wire.Piece(DIGEST, 1, len(content))), 0
    for size in [*chunks, len(content)]:
        part = content[start : start + size]
        if part:
            data += chunk_prefix(len(part)) + part + between
            start += len(part)
    return data


@given(st.lists(st.sampled_from(MESSAGES)), st.lists(st.integers(1, 50), max_size=60))
def test_messages_come_out_as_they_went_in_however_the_bytes_are_split(
    messages: list[wire.Kinds], sizes: list[int]
) -> None:
    data = b"".join(map(frame, messages))
    assert feed(Decoder(lambda _: None), data, sizes) == messages


@given(
    st.binary(max_size=300_000),
    st.lists(st.integers(1, 100_000), max_size=8),
    st.lists(st.integers(1, 100_000), max_size=30),
    st.booleans(),
)
def test_a_piece_comes_out_whole_with_messages_between_its_chunks(
    content: bytes, chunks: list[int], sizes: list[int], wanted: bool
) -> None:
    buffers: list[bytearray] = []

    def accept(message: wire.Piece) -> bytearray | None:
        if not wanted:
            return None
        buffers.append(bytearray(message.length))
        return buffers[-1]

    data = piece(content, chunks, between=frame(wire.Ready()))
    events = feed(Decoder(accept), data + frame(wire.Request(DIGEST, 9)), sizes)
    received = [event for event in events if isinstance(event, PieceReceived)]
    assert received == [PieceReceived(DIGEST, 1, buffers[0] if wanted else None)]
    assert not wanted or bytes(buffers[0]) == content
    assert events[-1] == wire.Request(DIGEST, 9)


def whole(length: int) -> bytes:
    return frame(wire.Piece(DIGEST, 1, length))


ATTACKS = {
    "oversized": struct.pack(">I", wire.MAX_MESSAGE_SIZE + 1),
    "not msgpack": struct.pack(">I", 1) + b"\xc1",
    "no map": struct.pack(">I", 1) + b"\x90",
    "a chunk without a piece": chunk_prefix(10) + bytes(10),
    "a chunk beyond its piece": whole(10) + chunk_prefix(11) + bytes(11),
    "an empty chunk": whole(10) + chunk_prefix(0),
    "a piece inside a piece": whole(10) + whole(10),
    "a deep nest": struct.pack(">I", 5000) + b"\x91" * 5000,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_breaks_the_protocol_is_refused(name: str) -> None:
    with pytest.raises(InvalidMessage):
        feed(Decoder(lambda message: bytearray(message.length)), ATTACKS[name], [])


def test_a_piece_larger_than_any_is_refused_before_memory_is_taken() -> None:
    data = frame(wire.Piece(DIGEST, 1, MAX_PIECE_SIZE + 1))
    with pytest.raises(InvalidMessage):
        feed(Decoder(lambda _: pytest.fail("memory was asked for")), data, [])


@given(st.binary(max_size=2000))
def test_no_bytes_break_the_decoder(data: bytes) -> None:
    try:
        feed(Decoder(lambda message: bytearray(message.length)), data, [])
    except InvalidMessage:
        return
