"""One connection over a real socket: what comes in slices, and how much is on its way."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import struct
import tempfile
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
from structlog.testing import capture_logs

from peer import wire
from peer.connection import Connection, Span
from shoal.digest import Digest
from tests.world.turns import later

DIGEST = Digest.of(b"blob")
SIZE = 300_000
MBIT = 1_000_000 / 8


class Heard:
    """Takes every piece, and keeps what comes."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.events: asyncio.Queue[wire.Event] = asyncio.Queue()
        self.reasons: asyncio.Queue[str] = asyncio.Queue()

    def accept(self, connection: Connection, piece: wire.Piece) -> bytearray | None:
        return bytearray(piece.length) if piece.piece else None

    def received(self, connection: Connection, event: wire.Event) -> None:
        self.events.put_nowait(event)
        if self.error is not None:
            raise self.error

    def closed(self, connection: Connection, reason: str) -> None:
        self.reasons.put_nowait(reason)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        two, _ = listener.accept()
    return one, two


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Connection, Heard, Connection, Heard, socket.socket]]:
    """Two ends, and the first one's socket."""
    (one, two), here, there = tcp_pair(), Heard(), Heard()
    sender, receiver = Connection(one, here), Connection(two, there)
    sender.greeted()
    receiver.greeted()
    try:
        yield sender, here, receiver, there, one
    finally:
        sender.close("over")
        receiver.close("over")


@pytest.mark.parametrize("wanted", [0, 1])
@pytest.mark.parametrize("seed", range(5))
async def test_what_comes_in_slices_is_heard_without_waiting_for_more(seed: int, wanted: int) -> None:
    rng = random.Random(seed)
    content = rng.randbytes(SIZE)
    stream = wire.frame(wire.Piece(DIGEST, SIZE, wanted, SIZE))
    for start in range(0, SIZE, 90_000):
        part = content[start : start + 90_000]
        stream += wire.chunk_prefix(len(part)) + part
        stream += wire.frame(wire.Ready())
    ours, theirs = tcp_pair()
    heard = Heard()
    connection = Connection(theirs, heard)
    connection.greeted()
    events: list[wire.Event] = []
    try:
        while stream:
            count = rng.choice([1, 3, 100, 20_000, 70_000])
            ours.sendall(stream[:count])
            stream = stream[count:]
            await asyncio.sleep(0)
        while len(events) < 5:
            events.append(await asyncio.wait_for(heard.events.get(), 5))
    finally:
        connection.close("over")
        ours.close()
    assert events[:3] == [wire.Ready()] * 3
    message = wire.Piece(DIGEST, SIZE, wanted, SIZE)
    assert wire.PieceReceived(message, bytearray(content) if wanted else None) in events


def span(piece: int, fd: int, release: Callable[[bool], None], rate: float = 0.0, wait: float = 0.0) -> Span:
    return Span(wire.Piece(DIGEST, SIZE, piece, SIZE), fd, 0, release, rate, later(wait))


async def send(sender: Connection, heard: Heard, piece: int, rate: float, wait: float = 0.0) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(bytes(SIZE))
        file.flush()
        sender.send_piece(span(piece, os.dup(file.fileno()), lambda _: None, rate, wait))
        await asyncio.wait_for(heard.events.get(), 5)


def send_buffer(sock: socket.socket) -> int:
    """In bytes of payload: the kernel tells twice what it was asked for."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2


async def test_on_a_slow_link_little_is_on_its_way() -> None:
    async with connected() as (sender, _, __, there, sock):
        await send(sender, there, 1, 2 * MBIT)
        assert send_buffer(sock) <= 32 << 10
        await send(sender, there, 2, 20 * MBIT)
        assert 100_000 < send_buffer(sock) < 200_000


async def test_a_fast_link_and_one_that_is_not_known_yet_are_left_to_the_kernel() -> None:
    async with connected() as (sender, _, __, there, sock):
        before = send_buffer(sock)
        await send(sender, there, 1, 0.0)
        await send(sender, there, 2, 10_000 * MBIT)
        assert send_buffer(sock) >= before


async def test_a_chunk_waits_for_its_turn_and_messages_go_out_meanwhile() -> None:
    async with connected() as (sender, _, __, there, _sock):
        loop = asyncio.get_running_loop()
        began = loop.time()
        piece = asyncio.create_task(send(sender, there, 1, 0.0, wait=0.2))
        await asyncio.sleep(0)
        sender.send(wire.Ready())
        await piece
        assert loop.time() - began < 0.15, "the message did not wait"
        assert isinstance(await asyncio.wait_for(there.events.get(), 20), wire.PieceReceived)
        assert loop.time() - began >= 0.2


async def test_traffic_is_what_has_arrived_since_the_last_look() -> None:
    async with connected() as (sender, _, receiver, there, _sock):
        await send(sender, there, 1, 0.0)
        await asyncio.sleep(0.1)  # the last acknowledgement
        assert SIZE < sender.traffic()[0] < SIZE + 10_000
        assert sender.traffic() == (0, 0)
        assert SIZE < receiver.traffic()[1] < SIZE + 10_000


async def test_a_neighbour_that_hangs_up_is_heard_inside_a_chunk() -> None:
    async with connected() as (sender, _, __, there, sock):
        sock.sendall(wire.frame(wire.Piece(DIGEST, SIZE, 1, SIZE)) + wire.chunk_prefix(SIZE) + bytes(50_000))
        await asyncio.sleep(0)
        sender.close("gone")
        assert await asyncio.wait_for(there.reasons.get(), 5) == "closed by the other side"


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Without the collector of reference cycles."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("known", [False, True])
async def test_a_closed_connection_is_freed_at_once(known: bool, no_gc: None) -> None:
    ours, theirs = tcp_pair()
    connection, heard = Connection(theirs, Heard()), Heard()
    if known:
        connection.greeted()
    other = Connection(ours, heard)
    released: list[bool] = []
    connection.send_piece(span(1, -1, released.append, wait=60.0))  # a timer refers to the connection
    other.send_encoded(struct.pack(">I", wire.MAX_MESSAGE_SIZE) + bytes(500_000))
    await asyncio.sleep(0.05)
    connection.close("over")
    reference = weakref.ref(connection)
    del connection
    await asyncio.wait_for(heard.reasons.get(), 5)
    assert released == [False]
    assert reference() is None


async def test_a_stranger_that_begins_a_large_message_is_hung_up_on() -> None:
    ours, theirs = tcp_pair()
    heard = Heard()
    connection = Connection(theirs, heard)
    ours.sendall(struct.pack(">I", wire.MAX_MESSAGE_SIZE))
    assert "over the limit" in await asyncio.wait_for(heard.reasons.get(), 5)
    assert connection.closed
    ours.close()


@pytest.mark.parametrize("error", [RuntimeError("ours"), FileNotFoundError("ours"), BlockingIOError("ours")])
async def test_an_error_of_the_handler_is_logged_and_ends_the_connection(error: Exception) -> None:
    with capture_logs() as logs:
        async with connected() as (sender, _, receiver, there, _sock):
            there.error = error
            sender.send(wire.Ready())
            sender.send(wire.Ready())
            assert await asyncio.wait_for(there.reasons.get(), 5) == "an error on this side"
            assert receiver.closed
            assert there.events.qsize() == 1
    assert [entry["event"] for entry in logs] == ["connection.failed"]


async def test_nothing_more_is_told_of_a_connection_that_was_closed_while_it_was_being_read() -> None:
    class Closing(Heard):
        asked = 0

        def accept(self, connection: Connection, piece: wire.Piece) -> bytearray | None:
            self.asked += 1
            connection.close("enough")
            return bytearray(piece.length)

    ours, theirs = tcp_pair()
    heard = Closing()
    Connection(theirs, heard).greeted()
    empty = wire.frame(wire.Piece(DIGEST, SIZE, 1, 0))
    ours.sendall(wire.frame(wire.Ready()) + 2 * empty + wire.frame(wire.Ready()))
    assert await asyncio.wait_for(heard.reasons.get(), 5) == "enough"
    await asyncio.sleep(0)
    assert heard.asked == 1
    assert heard.events.empty()
    ours.close()


@pytest.mark.parametrize("wait", [0.0, 0.01])
async def test_an_error_of_our_own_while_sending_ends_the_connection_and_does_not_reach_who_sends(wait: float) -> None:
    released: asyncio.Queue[bool] = asyncio.Queue()
    with capture_logs() as logs:
        async with connected() as (sender, here, _, __, _sock):
            sender.send_piece(span(1, cast("int", None), released.put_nowait, wait=wait))
            assert await asyncio.wait_for(here.reasons.get(), 5) == "an error on this side"
            assert await asyncio.wait_for(released.get(), 5) is False
    assert [entry["event"] for entry in logs] == ["connection.failed"]


async def test_spans_are_released_after_the_call_and_not_inside_it() -> None:
    released: list[bool] = []
    async with connected() as (sender, _, __, ___, _sock):
        sender.send_piece(span(1, -1, released.append, wait=60.0))
        sender.close("over")
        sender.send_piece(span(2, -1, released.append))
        assert released == []
        await asyncio.sleep(0)
        assert released == [False, False]


async def test_what_waits_for_a_neighbour_that_does_not_read_is_bounded() -> None:
    loop, megabyte = asyncio.get_running_loop(), bytes(1 << 20)
    ours, theirs = tcp_pair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    theirs.setblocking(False)
    heard = Heard()
    connection = Connection(ours, heard)
    try:
        for _ in range(8):
            connection.send_encoded(megabyte)
        read = 0
        while read < 1 << 20:  # then the first one is gone, and the others are in one buffer on their way to the socket
            read += len(await asyncio.wait_for(loop.sock_recv(theirs, 1 << 16), 5))
        for _ in range(6):
            connection.send_encoded(megabyte)
        assert connection.closed
        assert heard.reasons.get_nowait() == "it does not read"
    finally:
        connection.close("over")
        theirs.close()
