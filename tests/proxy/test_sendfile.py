"""Files to sockets, on both kinds of event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import web

from proxy.sendfile import send_file

CONTENT = os.urandom(1 << 20) * 6

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    runner: Run = request.param
    return runner


class FileServer:
    """Sends bytes `start` to `end` of a file to every request; an async context manager."""

    def __init__(self, path: Path, start: int, end: int) -> None:
        self.path, self.start, self.end = path, start, end
        self.sent = 0
        self.errors: list[OSError] = []
        self.ended = asyncio.Event()

    async def __aenter__(self) -> str:
        self._runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{site.port}"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(self.end - self.start)})
        writer = await response.prepare(request)
        assert writer is not None
        assert request.transport is not None
        with self.path.open("rb") as file:
            try:
                await send_file(request.transport, writer, file.fileno(), self.start, self.end, self._count)
                await response.write_eof()
            except OSError as error:
                self.errors.append(error)
                request.transport.abort()
            finally:
                self.ended.set()
        return response

    def _count(self, size: int) -> None:
        self.sent += size


@pytest.mark.parametrize(("start", "end"), [(0, len(CONTENT)), (1, 2), (5, 5), (1 << 20, 3 << 20)])
def test_the_bytes_arrive_behind_the_headers(file: Path, run: Run, start: int, end: int) -> None:
    async def check() -> None:
        server = FileServer(file, start, end)
        async with server as url, aiohttp.ClientSession() as session:
            for _ in range(2):
                async with session.get(url) as response:
                    assert await response.read() == CONTENT[start:end]
        assert server.sent == 2 * (end - start)
        assert server.errors == []

    run(check())


def test_many_at_once(file: Path, run: Run) -> None:
    async def check() -> None:
        async with FileServer(file, 0, len(CONTENT)) as url, aiohttp.ClientSession() as session:

            async def get() -> bool:
                async with session.get(url) as response:
                    return await response.read() == CONTENT

            assert all(await asyncio.gather(*(get() for _ in range(8))))

    run(check())


def test_a_client_that_leaves_is_a_connection_error(file: Path, run: Run) -> None:
    async def check() -> None:
        server = FileServer(file, 0, len(CONTENT))
        async with server as url:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]), limit=1024)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readline()
            writer.transport.abort()
            await server.ended.wait()
        assert server.sent < len(CONTENT)
        assert [isinstance(error, ConnectionError) for error in server.errors] == [True]

    run(check())


def test_a_file_that_is_too_short_is_an_error(file: Path, run: Run) -> None:
    async def check() -> None:
        server = FileServer(file, 0, len(CONTENT) + 1)
        async with server as url, aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientPayloadError):
                async with session.get(url) as response:
                    await response.read()
        assert ["early" in str(error) for error in server.errors] == [True]

    run(check())


def test_no_descriptor_is_left_open(file: Path, run: Run) -> None:
    async def check() -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        async with FileServer(file, 0, len(CONTENT)) as url:
            for _ in range(3):
                async with aiohttp.ClientSession() as session, session.get(url) as response:
                    await response.read()
        await asyncio.sleep(0)
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1

    run(check())
