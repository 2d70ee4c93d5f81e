"""Whatever goes wrong once a response has begun cuts its connection, and nothing else is ever written into it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from peer.errors import DigestMismatch
from peer.origin import OriginUnavailable
from proxy.metrics import ProxyMetrics
from proxy.pulls import CLIENT_LEFT
from proxy.server import ProxyServer
from proxy.settings import ProxySettings
from tests.world.catalogue import open_catalogue

if TYPE_CHECKING:
    from tests.proxy.conftest import Front, MemoryEngine, MemoryOrigin

CONTENT = bytes(range(256)) * 8192
SIZE = len(CONTENT)


class Odd(BaseException):
    """What no `except Exception` catches."""


KINDS: list[Callable[[], BaseException]] = [
    lambda: OSError(5, "cannot be read"),
    lambda: RuntimeError("bug"),
    lambda: KeyError("bug"),
    lambda: TimeoutError(),
    lambda: ConnectionResetError("another connection's"),
    lambda: web.HTTPNotFound(),
    lambda: DigestMismatch("wrong"),
    lambda: OriginUnavailable("gone"),
    lambda: asyncio.CancelledError(),
    lambda: Odd(),
]


@pytest.fixture(params=KINDS, ids=lambda make: type(make()).__name__)
def error(request: pytest.FixtureRequest) -> BaseException:
    found: BaseException = request.param()
    return found


def fail(monkeypatch: pytest.MonkeyPatch, method: str, error: BaseException, *, after: bool) -> None:
    """Let `method` of every response fail: instead of its work, or when it has done it."""
    for kind in (web.Response, web.StreamResponse):
        works = getattr(kind, method)

        async def broken(self: web.StreamResponse, *args: Any, works: Any = works) -> None:
            if after:
                await works(self, *args)
            raise error

        monkeypatch.setattr(kind, method, broken)


def request(path: str, *headers: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: x", *headers, "", "")).encode()


def body_of(answer: bytes) -> bytes:
    """The body behind the one status line that there may be."""
    assert answer.count(b"HTTP/1.") <= 1
    head, _, body = answer.partition(b"\r\n\r\n")
    assert not head or head.startswith(b"HTTP/1.1 20")
    return body


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "coming"])
@pytest.mark.parametrize(
    "point", ["prepare", "prepared", "begin", "middle", "last byte", "write_eof", "written eof", "leave"]
)
async def test_a_blob_that_has_begun_is_cut_by_any_error(
    front: Front,
    engine: MemoryEngine,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    point: str,
    stored: bool,
) -> None:
    digest = engine.store.put(CONTENT) if stored else engine.coming(CONTENT)
    engine.break_error = error
    match point:
        case "prepare" | "prepared":
            fail(monkeypatch, "prepare", error, after=point == "prepared")
        case "write_eof" | "written eof":
            fail(monkeypatch, "write_eof", error, after=point == "written eof")
        case "leave":
            engine.leave_error = error
        case _:
            engine.breaks_after = {"begin": 0, "middle": SIZE // 2, "last byte": SIZE}[point]
    body = body_of(await front.raw(request(f"/v2/a/blobs/{digest}")))
    assert body == CONTENT[: len(body)]
    assert len(body) < SIZE or point in {"last byte", "write_eof", "written eof", "leave"}
    assert engine.left == 1


@pytest.mark.parametrize("point", ["open_error", "error"])
async def test_an_error_before_the_headers_is_one_answer_or_none(
    front: Front, engine: MemoryEngine, error: BaseException, point: str
) -> None:
    setattr(engine, point, error)
    for kind in ("blobs", "manifests"):
        answer = await front.raw(request(f"/v2/a/{kind}/{engine.coming(CONTENT)}", "Connection: close"))
        assert answer.count(b"HTTP/1.1 ") == isinstance(error, Exception)
        assert not answer or answer.startswith((b"HTTP/1.1 50", b"HTTP/1.1 404"))


@pytest.mark.parametrize("error", KINDS[1::3], indirect=True)
@pytest.mark.parametrize("point", ["prepare", "write_eof"])
@pytest.mark.parametrize("after", [True, False], ids=["done", "undone"])
@pytest.mark.parametrize("what", ["manifests/latest", "tags/list", "manifests/DIGEST", "nothing"])
async def test_every_other_answer_is_cut_as_well(
    front: Front,
    engine: MemoryEngine,
    monkeypatch: pytest.MonkeyPatch,
    manifest: bytes,
    error: BaseException,
    point: str,
    after: bool,
    what: str,
) -> None:
    digest = engine.coming(manifest)
    front.origin.known["latest"] = engine.sizes[digest]
    fail(monkeypatch, point, error, after=after)
    answer = await front.raw(request(f"/v2/a/{what.replace('DIGEST', digest)}"))
    assert answer.count(b"HTTP/1.1 ") <= 1
    body = answer.partition(b"\r\n\r\n")[2]
    assert not body or point == "write_eof"  # all of it may be out by then
    assert b"UNKNOWN" not in body or what == "nothing"


async def test_a_bug_in_mid_body_is_logged_as_one(front: Front, engine: MemoryEngine) -> None:
    digest = engine.coming(CONTENT)
    engine.breaks_after, engine.break_error = SIZE // 2, KeyError("bug")
    with capture_logs() as logs:
        await front.raw(request(f"/v2/a/blobs/{digest}"))
    assert [(entry["event"], entry["log_level"]) for entry in logs if entry["log_level"] != "debug"] == [
        ("response.cut", "error")
    ]
    assert front.sample("shoal_proxy_cut_responses_total") == 1


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "coming"])
async def test_more_bytes_than_announced_are_not_sent(front: Front, engine: MemoryEngine, stored: bool) -> None:
    digest = engine.store.put(CONTENT) if stored else engine.coming(CONTENT)
    engine.oversend = 1
    assert body_of(await front.raw(request(f"/v2/a/blobs/{digest}"))) in {CONTENT, b""}
    assert front.sample("shoal_proxy_cut_responses_total") == 1


# --- clients that take nothing -------------------------------------------------------------------------------------


LARGE = os.urandom(1 << 20) * 24


@pytest.fixture
async def impatient(engine: MemoryEngine, memory_origin: MemoryOrigin) -> AsyncIterator[ProxyServer]:
    settings = ProxySettings(port=0, client_timeout=1)
    async with ProxyServer(
        settings, engine, None, memory_origin, open_catalogue(), ProxyMetrics(CollectorRegistry())
    ) as server:
        yield server


def slow_socket(server: ProxyServer) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    client.connect(("127.0.0.1", server.port))
    client.setblocking(False)
    return client


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "coming"])
async def test_a_client_that_takes_no_byte_is_cut(impatient: ProxyServer, engine: MemoryEngine, stored: bool) -> None:
    digest = engine.store.put(LARGE) if stored else engine.coming(LARGE)
    with slow_socket(impatient) as client:
        client.send(request(f"/v2/a/blobs/{digest}"))
        async with asyncio.timeout(10):
            await engine.was_left.wait()


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "coming"])
async def test_a_client_that_leaves_in_mid_body_is_known_to_have_left(
    impatient: ProxyServer, engine: MemoryEngine, stored: bool
) -> None:
    digest = engine.store.put(LARGE) if stored else engine.coming(LARGE)
    with slow_socket(impatient) as client:
        client.send(request(f"/v2/a/blobs/{digest}"))
        assert await asyncio.get_running_loop().sock_recv(client, 1024)
        (pull,) = impatient.pulls
    (asked,) = pull.requests
    async with asyncio.timeout(10):
        while asked.ended_at is None:  # noqa: ASYNC110 - a client is told of nothing
            await asyncio.sleep(0.005)
    assert asked.status == CLIENT_LEFT


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "coming"])
async def test_a_slow_client_is_not_cut(impatient: ProxyServer, engine: MemoryEngine, stored: bool) -> None:
    digest = engine.store.put(LARGE) if stored else engine.coming(LARGE)
    loop = asyncio.get_running_loop()
    with slow_socket(impatient) as client:
        client.send(request(f"/v2/a/blobs/{digest}"))
        for _ in range(10):
            assert await loop.sock_recv(client, 256 << 10)
            await asyncio.sleep(0.2)
        received = 0
        while chunk := await loop.sock_recv(client, 1 << 20):
            received += len(chunk)
            if received > len(LARGE) // 2:
                return
    pytest.fail("the body broke off")


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "coming"])
async def test_a_client_that_takes_less_than_the_least_rate_is_cut(
    impatient: ProxyServer, engine: MemoryEngine, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.guests.LEAST_RATE", 10 << 20)
    digest = engine.store.put(LARGE) if stored else engine.coming(LARGE)
    loop = asyncio.get_running_loop()
    with slow_socket(impatient) as client:
        client.send(request(f"/v2/a/blobs/{digest}"))
        async with asyncio.timeout(10):
            while not engine.was_left.is_set():  # it takes something all the time
                with contextlib.suppress(ConnectionError):
                    await loop.sock_recv(client, 64 << 10)
                await asyncio.sleep(0.1)


# --- heads ----------------------------------------------------------------------------------------------------------


async def test_a_head_that_is_not_whole_in_time_ends_the_connection(
    engine: MemoryEngine, memory_origin: MemoryOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.server._KEEPALIVE_SECONDS", 0.5)
    metrics = ProxyMetrics(CollectorRegistry())
    async with ProxyServer(ProxySettings(port=0), engine, None, memory_origin, open_catalogue(), metrics) as proxy:
        for begun in (b"", request("/v2/"), request("/v2/")[:-2]):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(begun)
            async with asyncio.timeout(10):
                while not reader.at_eof():
                    with contextlib.suppress(TimeoutError, ConnectionError):
                        await asyncio.wait_for(reader.read(1 << 16), 0.1)
                        writer.write(b"X-A: b\r\n")
            writer.close()


@pytest.mark.parametrize(
    "headers", [f"X-A: {'a' * (33 << 10)}\r\n", "X-A: b\r\n" * 40], ids=["a long one", "many of them"]
)
async def test_a_head_that_is_too_large_is_refused(front: Front, headers: str) -> None:
    answer = await front.raw(request("/v2/")[:-2] + headers.encode() + b"\r\n")
    assert answer.partition(b"\r\n")[0].endswith(b" 400 Bad Request")


# --- as many as may come -------------------------------------------------------------------------------------------


async def test_connections_beyond_the_limit_are_refused(
    engine: MemoryEngine, memory_origin: MemoryOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.guests._REFUSAL_SECONDS", 0.05)
    registry = CollectorRegistry()
    proxy = ProxyServer(
        ProxySettings(port=0), engine, None, memory_origin, open_catalogue(), ProxyMetrics(registry), connections=1
    )
    async with proxy:
        url = f"http://127.0.0.1:{proxy.port}/v2/"
        async with aiohttp.ClientSession() as first:
            async with first.get(url) as response:
                assert response.status == 200
            async with aiohttp.ClientSession() as second, second.get(url) as response:
                assert (response.status, response.headers["Connection"]) == (503, "close")
                assert (await response.json())["errors"][0]["code"] == "UNAVAILABLE"
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            assert await reader.read() == b""  # one that asks nothing is not kept
            writer.close()
        status = 503
        while status == 503:  # the server has to see that the first connection has ended
            async with aiohttp.ClientSession() as third, third.get(url) as response:
                status = response.status
        assert status == 200
    assert (registry.get_sample_value("shoal_proxy_refused_connections_total") or 0) >= 2
