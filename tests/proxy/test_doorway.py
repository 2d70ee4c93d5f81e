"""The first bytes of a connection."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.doorway import MAX_HEAD, BadConnect, Doorway, parse_connect
from shoal.guests import Guest


class Wire(asyncio.Transport):
    """Takes down what is written, and to whom the connection belongs."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.protocol: asyncio.BaseProtocol | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


class Http(asyncio.Protocol):
    """Stands for the HTTP server."""

    def __init__(self) -> None:
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data


class World:
    def __init__(self, patience: float = 60) -> None:
        self.http = Http()
        self.connects: list[Doorway] = []
        self.left: list[Doorway] = []
        self.doorway = Doorway(cast("Guest", self), lambda: self.http, self.connects.append, self.left.append, patience)
        self.wire = Wire()
        self.doorway.connection_made(self.wire)

    def become(self, protocol: asyncio.BaseProtocol) -> None:
        """As the connection's guest."""
        self.wire.set_protocol(protocol)
        protocol.connection_made(self.wire)

    def feed(self, content: bytes, step: int) -> None:
        for start in range(0, len(content), step):
            part = content[start : start + step]
            if self.wire.protocol is not None:
                cast("Http", self.wire.protocol).data_received(part)
            elif not self.wire.closed:
                self.doorway.data_received(part)


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
@pytest.mark.parametrize(
    "request_", [b"GET /v2/ HTTP/1.1\r\n\r\n", b"CON", b"CONNECTED x", b"\x16\x03\x01", b"COPY / HTTP/1.1"]
)
async def test_what_is_not_connect_goes_to_the_http_server_whole(step: int, request_: bytes) -> None:
    world = World()
    world.feed(request_, step)
    if request_ == b"CON":  # may still become one
        assert world.wire.protocol is None
        world.feed(b"X", step)
        request_ += b"X"
    assert world.http.received == request_
    assert (world.connects, world.left) == ([], [world.doorway])


@pytest.mark.parametrize("step", [1, 5, 1000])
async def test_connect_is_kept_with_what_comes_behind_it(step: int) -> None:
    world = World()
    world.feed(b"CONNECT quay.io:443 HTTP/1.1\r\nHost: quay.io:443\r\n\r\n\x16\x03hello", step)
    assert world.connects == [world.doorway]
    assert parse_connect(world.doorway.head) == "quay.io:443"
    assert world.doorway.early == b"\x16\x03hello"
    assert world.http.received == b""


async def test_a_head_without_an_end_is_refused() -> None:
    world = World()
    world.feed(b"CONNECT quay.io:443 HTTP/1.1\r\n" + b"X: y\r\n" * MAX_HEAD, 1000)
    assert world.wire.written.startswith(b"HTTP/1.1 431 ")
    assert world.wire.closed


@pytest.mark.parametrize("step", [100, 1 << 20])
@pytest.mark.parametrize("over", [0, 1])
async def test_a_head_is_bounded_in_however_many_reads_it_comes(step: int, over: int) -> None:
    world, line = World(), b"CONNECT quay.io:443 HTTP/1.1\r\n"
    world.feed(line + b"x" * (MAX_HEAD - len(line) + over) + b"\r\n\r\nearly", step)
    assert bool(world.connects) == (over == 0)
    assert world.wire.closed == (over == 1)


async def test_a_client_that_says_nothing_is_cut() -> None:
    world = World(patience=0.01)
    async with asyncio.timeout(5):
        while not world.wire.closed:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_refusal_is_shown_in_the_status_line_and_splits_nothing() -> None:
    world = World()
    world.doorway.refuse(403, "no\r\nX: y ☃" + "z" * 1000)
    head, _, body = world.wire.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 Forbidden: no??X: y ?zzz")
    assert b"\r\nX:" not in head
    assert b'"code":"DENIED"' in body


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"CONNECT",
        b"CONNECT quay.io:443",
        b"CONNECT  HTTP/1.1",
        b"CONNECT quay.io:443 HTTP/2",
        b"CONNECT a b HTTP/1.1",
        b"connect quay.io:443 HTTP/1.1",
        b"CONNECT " + b"x" * 600 + b" HTTP/1.1",
    ],
)
def test_what_is_no_connect_request(head: bytes) -> None:
    with pytest.raises(BadConnect):
        parse_connect(head)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_bytes_end_at_one_place(content: bytes, step: int) -> None:
    async def run() -> None:
        world = World()
        world.feed(content, step)
        if world.connects:
            assert world.http.received == b""
        elif world.wire.protocol is not None:
            assert world.http.received == content
        world.doorway.connection_lost(None)
        assert len(world.left) == 1

    asyncio.run(run())
