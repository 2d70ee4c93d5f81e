"""The operations port, and what strangers may hold of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

import shoal.operations
from shoal.daemonsettings import OperationsSettings
from shoal.operations import OperationsServer

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
async def server() -> AsyncIterator[OperationsServer]:
    async with OperationsServer(OperationsSettings(), CollectorRegistry(), {}) as server:
        yield server


async def ask(port: int, request: bytes) -> bytes:
    """The first line of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        async with asyncio.timeout(10):
            return await reader.readline()
    finally:
        writer.close()


async def test_a_crowd_at_the_port_is_bounded_and_makes_room_when_it_goes(server: OperationsServer) -> None:
    crowd = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(shoal.operations._CONNECTIONS)]
    assert b" 503 " in await ask(server.port, REQUEST)
    for _, writer in crowd:
        writer.close()
    answer = b""
    async with asyncio.timeout(10):
        while b" 200 " not in answer:  # the server has to see that they have gone
            answer = await ask(server.port, REQUEST)


async def test_a_head_that_is_not_whole_in_time_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.operations._KEEPALIVE_SECONDS", 0.2)
    async with OperationsServer(OperationsSettings(), CollectorRegistry(), {}) as server:
        assert await ask(server.port, REQUEST[:-2]) == b""


async def test_a_head_that_is_too_large_is_refused(server: OperationsServer) -> None:
    assert b" 400 " in await ask(server.port, REQUEST[:-2] + b"X-A: b\r\n" * 40 + b"\r\n")
