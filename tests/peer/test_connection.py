"""One connection over a real socket: what comes in slices, and how much is on its way."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from peer import wire
from peer.connection import Connection, Span
from shoal.digest import Digest

DIGEST = Digest.of(b"blob")
SIZE = 300_000
MBIT = 1_000_000 / 8


class Heard:
    """Takes every piece, and keeps what comes."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[wire.Event] = asyncio.Queue()
        self.reasons: asyncio.Queue[str] = asyncio.Queue()

    def accept(self, connection: Connection, piece: wire.Piece) -> bytearray | None:
        return bytearray(piece.length) if piece.piece else None

    def received(self, connection: Connection, event: wire.Event) -> None:
        self.events.put_nowait(event)

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
    stream = wire.frame(wire.Piece(DIGEST, wanted, SIZE))
    for start in range(0, SIZE, 90_000):
        part = content[start : start + 90_000]
        stream += wire.chunk_prefix(len(part)) + part
        stream += wire.frame(wire.Ready())
    ours, theirs = tcp_pair()
    heard = Heard()
    connection = Connection(theirs, heard)
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
    assert wire.PieceReceived(DIGEST, wanted, bytearray(content) if wanted else None) in events


async def send(sender: Connection, heard: Heard, piece: int, rate: float, wait: float = 0.0) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(bytes(SIZE))
        file.flush()
        fd = os.dup(file.fileno())
        sender.send_piece(Span(wire.Piece(DIGEST, piece, SIZE), fd, 0, lambda _: None, rate, lambda _: wait))
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
        sock.sendall(wire.frame(wire.Piece(DIGEST, 1, SIZE)) + wire.chunk_prefix(SIZE) + bytes(50_000))
        await asyncio.sleep(0)
        sender.close("gone")
        assert await asyncio.wait_for(there.reasons.get(), 5) == "closed by the other side"
