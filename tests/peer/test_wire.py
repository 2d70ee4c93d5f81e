from __future__ import annotations

import struct
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer import wire
from peer.wire import Decoder, PieceReceived, chunk_prefix, frame
from shoal.digest import Digest
from shoal.handshake import NotAMember, Session
from shoal.messages import BlobRef, InvalidMessage
from shoal.pieces import MAX_PIECE_SIZE

DIGEST = str(Digest.of(b"blob"))
SIZE = 10
MESSAGES: list[wire.Kinds] = [
    wire.Hello(1, 32 * "a"),
    wire.Join([wire.Joined(DIGEST, SIZE, b"\x01"), wire.Joined(DIGEST, SIZE)]),
    wire.Part([BlobRef(DIGEST, SIZE)]),
    wire.Have(DIGEST, SIZE, [0, 5]),
    wire.Have(DIGEST, SIZE, [0], bytes(16)),
    wire.Coming(DIGEST, SIZE, b"\x05"),
    wire.Request(DIGEST, SIZE, 3),
    wire.Cancel(DIGEST, SIZE, 3),
    wire.Busy(DIGEST, SIZE, 3),
    wire.Absent(DIGEST, SIZE, 3),
    wire.Ready(),
]
LARGE = wire.Have(DIGEST, SIZE, [], bytes(200_000))
SCRATCH = 64 << 10
STRANGER_SCRATCH = 2 << 10


def take(message: wire.Piece) -> bytearray:
    return bytearray(message.length)


def drop(_: wire.Piece) -> None:
    return None


def neighbours_decoder(accept: Callable[[wire.Piece], bytearray | None]) -> Decoder:
    decoder = Decoder(accept)
    decoder.greeted()
    return decoder


def held(decoder: Decoder) -> int:
    """Bytes of the buffer that the next bytes go into."""
    return len(cast("bytearray", decoder.buffer().obj))


def feed(decoder: Decoder, data: bytes, sizes: list[int]) -> list[wire.Event]:
    """Give `data` to the decoder in reads of these sizes, then in reads as large as it takes."""
    events: list[wire.Event] = []
    while data:
        buffer = decoder.buffer()
        count = min(len(buffer), len(data), sizes.pop(0) if sizes else len(data))
        buffer[:count] = data[:count]
        data = data[count:]
        while new := decoder.received(count):
            events += new
            count = 0
    return events


def piece(content: bytes, chunks: list[int], between: bytes = b"") -> bytes:
    """A piece in chunks of these sizes, with messages between them."""
    data, start = frame(wire.Piece(DIGEST, SIZE, 1, len(content))), 0
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
    assert feed(neighbours_decoder(drop), data, sizes) == messages
    assert feed(Decoder(drop), data, sizes) == messages


@given(st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=8), st.lists(st.integers(1, 50)), st.data())
def test_sealed_messages_come_out_in_their_order_or_end_the_connection(
    messages: list[wire.Kinds], sizes: list[int], data: st.DataObject
) -> None:
    sender, key = Session("other", bytes(32), bytes(32)), bytes(32)
    frames = [frame(message, sender) for message in messages]
    assert feed(Decoder(drop, Session("other", key, key)), b"".join(frames), sizes) == messages
    at = data.draw(st.integers(0, len(frames) - 1))
    turned = bytearray(frames[at])
    bit = data.draw(st.integers(8 * 4, 8 * len(turned) - 1))  # what the length turns into is waited for, or too much
    turned[bit // 8] ^= 1 << bit % 8
    left_out = [b""] if at + 1 < len(frames) else []
    frames[at] = data.draw(st.sampled_from([bytes(turned), 2 * frames[at], *left_out]))
    with pytest.raises(NotAMember):
        feed(Decoder(drop, Session("other", key, key)), b"".join(frames), sizes)


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
    events = feed(neighbours_decoder(accept), data + frame(wire.Request(DIGEST, SIZE, 9)), sizes)
    received = [event for event in events if isinstance(event, PieceReceived)]
    message = wire.Piece(DIGEST, SIZE, 1, len(content))
    assert received == [PieceReceived(message, buffers[0] if wanted else None)]
    assert not wanted or bytes(buffers[0]) == content
    assert events[-1] == wire.Request(DIGEST, SIZE, 9)


def whole(length: int) -> bytes:
    return frame(wire.Piece(DIGEST, SIZE, 1, length))


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
        feed(neighbours_decoder(take), ATTACKS[name], [])


def test_a_piece_larger_than_any_is_refused_before_memory_is_taken() -> None:
    data = frame(wire.Piece(DIGEST, SIZE, 1, MAX_PIECE_SIZE + 1))
    with pytest.raises(InvalidMessage):
        feed(neighbours_decoder(lambda _: pytest.fail("memory was asked for")), data, [])


def test_a_stranger_gets_little_memory_and_may_not_send_a_large_message() -> None:
    decoder = Decoder(take)
    assert held(decoder) == STRANGER_SCRATCH
    with pytest.raises(InvalidMessage):
        feed(decoder, struct.pack(">I", 2000), [])
    assert held(decoder) == STRANGER_SCRATCH


def test_what_follows_the_greeting_at_once_comes_out_after_it_however_large() -> None:
    hello, decoder = wire.Hello(wire.VERSION, 32 * "a"), Decoder(drop)
    data = frame(hello) + frame(LARGE)
    buffer = decoder.buffer()
    buffer[:] = data[: len(buffer)]
    assert decoder.received(len(buffer)) == [hello]
    decoder.greeted()
    assert decoder.received(0) == []
    assert feed(decoder, data[len(buffer) :], []) == [LARGE]


def test_after_a_large_message_the_buffer_is_small_again() -> None:
    decoder, data = neighbours_decoder(drop), frame(LARGE)
    assert feed(decoder, data[:-1], []) == []
    assert 2 * SCRATCH < held(decoder) <= wire.MAX_MESSAGE_SIZE + 4
    assert feed(decoder, data[-1:], []) == [LARGE]
    assert held(decoder) == SCRATCH


parts = st.one_of(
    st.binary(max_size=100),
    st.sampled_from([frame(message) for message in MESSAGES]),
    st.integers(0, 200).map(whole),
    st.binary(min_size=1, max_size=200).map(lambda chunk: chunk_prefix(len(chunk)) + chunk),
    st.binary(max_size=50).map(lambda message: struct.pack(">I", len(message)) + message),
    st.integers(0, 2**32 - 1).map(lambda length: struct.pack(">I", length) + bytes(3000)),
)


@given(st.lists(parts, max_size=20), st.lists(st.integers(1, 200), max_size=60), st.booleans(), st.booleans())
def test_no_bytes_break_the_decoder_or_make_it_take_more_memory(
    chunks: list[bytes], sizes: list[int], is_stranger: bool, wanted: bool
) -> None:
    accept = take if wanted else drop
    decoder = Decoder(accept) if is_stranger else neighbours_decoder(accept)
    most = STRANGER_SCRATCH if is_stranger else SCRATCH
    for chunk in chunks:
        try:
            feed(decoder, chunk, sizes)
        except InvalidMessage:
            return
        assert held(decoder) <= most
