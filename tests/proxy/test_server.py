"""The front end as a whole: what every request meets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from peer.errors import DownloadFailed
from proxy.metrics import ProxyMetrics
from proxy.server import ProxyServer
from proxy.settings import ProxySettings
from shoal.digest import Digest
from tests.world.catalogue import open_catalogue

if TYPE_CHECKING:
    from tests.proxy.conftest import Front, MemoryEngine, MemoryOrigin

CONTENT = bytes(range(256)) * 1024
MISSING = Digest.of(b"missing")


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_version_check(front: Front, path: str, method: str) -> None:
    answer = await front.ask(path, method)
    assert answer.status == 200
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/v2/a/blobs/uploads/", "/v2/a/manifests/latest", "/v2/"])
async def test_pushes_are_refused(front: Front, method: str, path: str) -> None:
    answer = await front.ask(path, method)
    assert (answer.status, answer.code, answer.headers["Allow"]) == (405, "UNSUPPORTED", "GET, HEAD")
    assert answer.headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/v2/a/blobs/sha256:zz", 400, "DIGEST_INVALID"),
        ("/v2/a/manifests/-x", 400, "MANIFEST_INVALID"),
        ("/v2/A/manifests/x", 400, "NAME_INVALID"),
        ("/v2/a/manifests/x?ns=evil.example", 404, "NAME_UNKNOWN"),
        ("/v2/a/manifests/x", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/a/blobs/{MISSING}", 404, "BLOB_UNKNOWN"),
        ("/v2/_catalog", 404, "UNSUPPORTED"),
    ],
)
async def test_errors_have_the_body_of_the_api(front: Front, target: str, status: int, code: str) -> None:
    answer = await front.ask(target)
    assert (answer.status, answer.code) == (status, code)
    head = await front.ask(target, "HEAD")
    assert (head.status, head.body) == (status, b"")


@pytest.mark.parametrize(
    "line", [b"/v2/../../etc/manifests/passwd", b"/v2/a/../b/manifests/x", b"/v2/%2e%2e/a/manifests/x"]
)
async def test_a_path_that_climbs_is_refused(front: Front, line: bytes) -> None:
    answer = await front.raw(b"GET " + line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"NAME_INVALID" in answer


async def test_an_unforeseen_error_is_logged_and_hidden(front: Front, engine: MemoryEngine) -> None:
    digest = engine.coming(CONTENT)
    engine.error = ZeroDivisionError("secret")
    with capture_logs() as logs:
        answer = await front.ask(f"/v2/a/blobs/{digest}")
    assert (answer.status, answer.code) == (500, "UNKNOWN")
    assert b"secret" not in answer.body
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["proxy.error"]


async def test_a_request_is_one_event_and_one_sample(front: Front, engine: MemoryEngine) -> None:
    digest = engine.coming(CONTENT)
    with capture_logs() as logs:
        await front.ask(f"/v2/a/blobs/{digest}")
    (event,) = [entry for entry in logs if entry["event"] == "proxy.request"]
    assert (event["log_level"], event["status"], event["sent"]) == ("debug", 200, len(CONTENT))
    assert front.sample("shoal_proxy_request_seconds_count", route="blob", status="200") == 1
    assert front.sample("shoal_proxy_first_byte_seconds_count", route="blob") == 1
    assert front.sample("shoal_proxy_sent_bytes_total", source="origin") == len(CONTENT)


def server(engine: MemoryEngine, origin: MemoryOrigin, timeout: float) -> ProxyServer:
    settings = ProxySettings(port=0, shutdown_timeout=timeout)
    return ProxyServer(settings, engine, None, origin, open_catalogue(), ProxyMetrics(CollectorRegistry()))


async def test_a_running_response_is_finished_when_the_proxy_stops(
    engine: MemoryEngine, memory_origin: MemoryOrigin
) -> None:
    digest = engine.coming(CONTENT)
    engine.gate.clear()
    proxy = await server(engine, memory_origin, 30).__aenter__()
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{proxy.port}/v2/a/blobs/{digest}") as response:
            stopping = asyncio.create_task(proxy.__aexit__())
            await asyncio.sleep(0)
            engine.gate.set()
            assert await response.read() == CONTENT
            await stopping
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"http://127.0.0.1:{proxy.port}/v2/")


async def test_a_response_that_does_not_end_is_ended(engine: MemoryEngine, memory_origin: MemoryOrigin) -> None:
    digest = engine.coming(CONTENT)
    engine.gate.clear()
    proxy = await server(engine, memory_origin, 0.01).__aenter__()
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{proxy.port}/v2/a/blobs/{digest}") as response,
    ):
        await proxy.__aexit__()
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    assert engine.left == 1


async def test_an_address_in_use_is_an_error(front: Front, engine: MemoryEngine, memory_origin: MemoryOrigin) -> None:
    settings = ProxySettings(port=front.server.port)
    taken = ProxyServer(settings, engine, None, memory_origin, open_catalogue(), ProxyMetrics(CollectorRegistry()))
    with pytest.raises(OSError, match="address"):
        await taken.__aenter__()


async def test_a_stopping_engine_is_unavailable(front: Front, engine: MemoryEngine) -> None:
    digest = engine.coming(CONTENT)
    engine.error = DownloadFailed("no space")
    answer = await front.ask(f"/v2/a/blobs/{digest}")
    assert (answer.status, answer.code) == (502, "UNAVAILABLE")


async def test_a_proxy_that_stops_gives_up_its_questions(engine: MemoryEngine, memory_origin: MemoryOrigin) -> None:
    memory_origin.answers.clear()
    async with aiohttp.ClientSession() as session:
        async with server(engine, memory_origin, 0) as proxy:
            asking = asyncio.create_task(session.get(f"http://127.0.0.1:{proxy.port}/v2/a/manifests/latest"))
            await memory_origin.was_asked.wait()
        with pytest.raises(aiohttp.ClientError):
            await asking
    assert memory_origin.waiting == 0
