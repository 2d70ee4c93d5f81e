"""Long answers: whole, in steps, and only to who takes them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator
from itertools import repeat

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from supernode import rows


def server_of(made: Iterable[object]) -> TestServer:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await rows.give_rows(request, {"id": "x"}, "rows", made)

    app = web.Application()
    app.add_routes([web.get("/", handle)])
    return TestServer(app)


@pytest.mark.parametrize("count", [0, 1, 1000])
async def test_rows_are_one_object(count: int) -> None:
    async with server_of(range(count)) as server, ClientSession() as session, session.get(server.make_url("/")) as got:
        assert json.loads(await got.read()) == {"id": "x", "rows": list(range(count))}


async def test_others_have_their_turns_between_rows() -> None:
    turns: list[int] = []

    def slow() -> Iterator[int]:
        for number in range(20):
            time.sleep(0.006)
            yield len(turns) + number

    async def others() -> None:
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    async with server_of(slow()) as server, ClientSession() as session, asyncio.TaskGroup() as group:
        task = group.create_task(others())
        async with session.get(server.make_url("/")) as got:
            found = json.loads(await got.read())["rows"]
        task.cancel()
    assert len({turn - number for number, turn in enumerate(found)}) == len(found)


async def test_who_does_not_take_them_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_PATIENCE_SECONDS", 0.05)
    ended = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        response = await rows.give_rows(request, {}, "rows", repeat("x" * 100_000))
        ended.set()
        return response

    app = web.Application()
    app.add_routes([web.get("/", handle)])
    async with TestServer(app) as server:
        _, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(5):
            await ended.wait()
        writer.close()
