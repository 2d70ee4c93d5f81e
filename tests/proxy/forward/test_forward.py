"""Forward-proxy mode over real connections: what is opened, relayed, tunnelled and refused."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from yarl import URL

from peer.tally import Tally
from proxy.certificates import AuthorityFiles
from proxy.destinations import Opened, TunnelSettings
from proxy.errors import RequestError, answer_to
from proxy.forward import ForwardProxy
from proxy.memory import AnswerMemory
from proxy.metrics import ProxyMetrics
from proxy.relay import Way
from proxy.responses import Call
from shoal.guests import Guests, Limits
from shoal.listener import Listener
from shoal.reference import Location, Registry

if TYPE_CHECKING:
    from tests.proxy.conftest import Front

REGISTRY = "registry.made"
"""A name that nothing resolves."""
BODY = bytes(range(256)) * 2000


@dataclass(frozen=True)
class Upstream:
    url: str


class Host:
    """A host on loopback that tells what it was asked, and answers as it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        content = b"".join([chunk async for chunk in request.content.iter_any()])
        self.seen.append((request.method, request.raw_path, dict(request.headers), content))
        if self.answer is not None:
            return await self.answer(request)  # type: ignore[arg-type]
        return web.Response(body=b"from the host", headers={"X-Host": "real"})


@dataclass
class World:
    """A proxy whose mirror answers with a line about each request, and a host behind it."""

    port: int
    forward: ForwardProxy
    host: Host
    registry: CollectorRegistry
    trust: ssl.SSLContext
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """What the mirror was asked: method, path, registry."""
    changed: list[Location] = field(default_factory=list)

    def connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(force_close=False)

    async def ask(self, url: str, method: str = "GET", **options: Any) -> tuple[int, aiohttp.ClientResponse, bytes]:
        """One request by way of the proxy."""
        options.setdefault("ssl", self.trust)
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                method, url, proxy=f"http://127.0.0.1:{self.port}", allow_redirects=False, **options
            ) as response,
        ):
            return response.status, response, await response.read()

    async def raw(self, content: bytes) -> bytes:
        """What comes back for these bytes, until the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(content)
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.transport.abort()
        return answer

    def counted(self, outcome: str) -> float:
        return self.registry.get_sample_value("shoal_proxy_connects_total", {"outcome": outcome}) or 0.0


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what follows from a connection's end."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    host = Host()
    runner = web.ServerRunner(web.Server(host.handle, access_log=None, auto_decompress=False), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host.port = site.port
    yield host
    await runner.cleanup()


Open = Callable[..., Awaitable[World]]


@pytest.fixture
async def open_world(tmp_path: Path, host: Host) -> AsyncIterator[Open]:
    """Starts a proxy with these settings of `proxy.tunnel`."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**settings: Any) -> World:
            registry = CollectorRegistry()
            metrics = ProxyMetrics(registry)

            async def handle(request: web.Request, inside: Opened | None = None) -> web.StreamResponse:
                call = Call(request, metrics, AnswerMemory(), Tally(), inside)
                try:
                    if not await world.forward.answered(call):
                        meant = call.inside.registry if call.inside is not None else None
                        world.asked.append((request.method, request.path, meant))
                        await call.send(web.Response(body=BODY, headers={"X-Mirror": "yes"}))
                except RequestError as error:
                    answer = answer_to(error, "NAME_UNKNOWN", {})
                    await call.send(web.Response(status=answer.status, body=answer.body))
                except Exception as error:
                    if call.response is None:
                        await call.send(web.Response(status=502, text=str(error)))
                    else:
                        call.cut(error)
                assert call.response is not None
                return call.response

            authority = AuthorityFiles(tmp_path / "ca").open()
            forward = ForwardProxy(
                TunnelSettings(enabled=True, **{"hosts": ["localhost"], **settings}),
                {REGISTRY: Upstream(host.url), "docker.io": Upstream("https://registry-1.docker.io")},
                authority,
                lambda _: Way(URL(host.url)),
                handle,
                metrics,
                changed=lambda location: world.changed.append(location),
                shutdown_timeout=1.0,
            )
            await stack.enter_async_context(forward)
            server = web.Server(handle, access_log=None, auto_decompress=False)  # type: ignore[arg-type]
            guests = Guests(Limits(100, 100, 60), b"", metrics.refused.inc, lambda: forward.connects.held)
            stack.push_async_callback(server.shutdown, 0.1)
            listener = Listener(lambda guest: forward.connects.doorway(server, guest), "127.0.0.1", 0, guests)
            await stack.enter_async_context(listener)
            trust = ssl.create_default_context(cadata=authority.pem)
            world = World(listener.port, forward, host, registry, trust)
            return world

        yield start


# --- opened hosts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/a/b/manifests/latest"),
        ("HEAD", "/v2/a/b/manifests/latest"),
        ("GET", "/v2/a/b/blobs/sha256:00"),
        ("GET", "/v2/a/tags/list?n=3"),
        ("GET", "/v2/a/referrers/sha256:00"),
    ],
)
async def test_a_pull_inside_an_opened_host_is_the_mirrors(open_world: Open, method: str, path: str) -> None:
    world = await open_world()
    status, response, body = await world.ask(f"https://{REGISTRY}{path}", method)
    assert (status, response.headers["X-Mirror"], body) == (200, "yes", b"" if method == "HEAD" else BODY)
    assert world.asked == [(method, path.partition("?")[0], REGISTRY)]
    assert world.host.seen == []
    assert world.counted("opened") == 1


async def test_docker_hub_is_opened_under_the_name_of_its_registry(open_world: Open) -> None:
    world = await open_world()
    await world.ask("https://registry-1.docker.io/v2/library/a/manifests/latest")
    assert world.asked == [("GET", "/v2/library/a/manifests/latest", "docker.io")]


async def test_many_requests_take_one_connection(open_world: Open) -> None:
    world = await open_world()
    async with aiohttp.ClientSession() as session:
        for number in range(5):
            url = f"https://{REGISTRY}/v2/a/manifests/{number}"
            async with session.get(url, proxy=f"http://127.0.0.1:{world.port}", ssl=world.trust) as response:
                assert await response.read() == BODY
    assert len(world.asked) == 5
    assert world.counted("opened") == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/"),
        ("GET", "/token?service=x&scope=repository%3Aa%3Apull"),
        ("GET", "/v2/auth?scope=a"),
        ("GET", "/v2/_catalog"),
        ("GET", "/v2/a/blobs/uploads/01-02"),
        ("POST", "/v2/a/blobs/uploads/"),
        ("PATCH", "/v2/a/blobs/uploads/01?_state=a%2Bb"),
        ("PUT", "/v2/a/manifests/latest"),
        ("DELETE", "/v2/a/manifests/latest"),
        ("GET", "/"),
    ],
)
async def test_all_else_inside_an_opened_host_is_relayed_untouched(open_world: Open, method: str, path: str) -> None:
    world = await open_world()
    content = b"\x1f\x8b some bytes" if method in {"PATCH", "PUT"} else b""
    sent = {"Authorization": "Basic abc", "X-Own": "1", "Content-Encoding": "gzip"} if content else {"X-Own": "1"}
    url = URL(f"https://{REGISTRY}{path}", encoded=True)
    status, response, body = await world.ask(url, method, headers=sent, data=content or None)  # type: ignore[arg-type]
    assert (status, response.headers["X-Host"], body) == (200, "real", b"from the host")
    ((seen_method, seen_path, headers, seen_body),) = world.host.seen
    assert (seen_method, seen_path, seen_body) == (method, path, content)
    assert sent.items() <= headers.items()
    assert headers["Host"] == f"127.0.0.1:{world.host.port}"
    assert not {"Proxy-Connection", "Proxy-Authorization"} & headers.keys()
    assert world.asked == []


@pytest.mark.parametrize(
    ("method", "path", "status", "is_change"),
    [
        ("PUT", "/v2/a/b/manifests/latest", 201, True),
        ("DELETE", "/v2/a/b/manifests/latest", 202, True),
        ("PUT", "/v2/a/b/manifests/latest", 401, False),
        ("PUT", "/v2/a/b/blobs/uploads/1", 201, False),
        ("PUT", "/v2/A/manifests/latest", 201, False),
    ],
)
async def test_what_was_pushed_to_is_asked_for_anew(
    open_world: Open, method: str, path: str, status: int, is_change: bool
) -> None:
    world = await open_world()

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    world.host.answer = answer
    await world.ask(f"https://{REGISTRY}{path}", method)
    assert world.changed == ([Location.parse(REGISTRY, "a/b")] if is_change else [])


async def test_a_body_is_relayed_while_it_comes(open_world: Open) -> None:
    world = await open_world()
    gate = asyncio.Event()

    async def echo(request: web.Request) -> web.StreamResponse:
        return web.Response(body=str(len(world.host.seen[-1][3])).encode(), status=202)

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(40):
            if number == 20:
                await gate.wait()
            yield bytes(100_000)

    world.host.answer = echo
    asking = asyncio.create_task(world.ask(f"https://{REGISTRY}/v2/a/blobs/uploads/1", "PATCH", data=chunks()))
    await asyncio.sleep(0)
    gate.set()
    status, _, body = await asking
    assert (status, body) == (202, b"4000000")


async def test_a_large_answer_is_relayed_as_it_comes(open_world: Open) -> None:
    world = await open_world()

    async def large(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Encoding": "gzip"})
        await response.prepare(request)
        for _ in range(20):
            await response.write(b"x" * 100_000)
        return response

    world.host.answer = large
    status, response, body = await world.ask(f"https://{REGISTRY}/token")
    assert (status, len(body), response.headers["Content-Encoding"]) == (200, 2_000_000, "gzip")


async def test_an_answer_that_breaks_off_is_cut(open_world: Open) -> None:
    world = await open_world()

    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"x" * 10)
        assert request.transport is not None
        request.transport.abort()
        return response

    world.host.answer = broken
    with pytest.raises(aiohttp.ClientPayloadError):
        await world.ask(f"https://{REGISTRY}/token")


async def test_challenges_and_addresses_of_the_host_reach_the_client(open_world: Open) -> None:
    world = await open_world()

    async def challenge(request: web.Request) -> web.StreamResponse:
        headers = [("WWW-Authenticate", 'Bearer realm="https://x/t"'), ("WWW-Authenticate", "Basic realm=a")]
        return web.Response(status=401, headers=[*headers, ("Location", f"{world.host.url}/v2/u?a=%2B")])

    world.host.answer = challenge
    status, response, _ = await world.ask(f"https://{REGISTRY}/v2/")
    assert status == 401
    assert response.headers.getall("WWW-Authenticate") == ['Bearer realm="https://x/t"', "Basic realm=a"]
    assert URL(response.headers["Location"]) == URL(f"https://{REGISTRY}/v2/u?a=%2B", encoded=True)


async def test_a_host_that_is_down_is_an_error_but_for_the_version_check(open_world: Open) -> None:
    world = await open_world()
    world.forward._way = lambda _: Way(URL("http://127.0.0.1:1"))
    assert (await world.ask(f"https://{REGISTRY}/token"))[0] == 502
    status, response, _ = await world.ask(f"https://{REGISTRY}/v2/")
    assert (status, response.headers.get("X-Mirror")) == (200, "yes")


@pytest.mark.parametrize(
    ("named", "target"),
    [
        ("other.example", "/v2/a/manifests/x"),
        (f"{REGISTRY}:444", "/v2/a/manifests/x"),
        ("a b", "/v2/"),
        (REGISTRY, "https://other.example/v2/a/manifests/x"),
    ],
)
async def test_a_request_for_another_host_is_misdirected(open_world: Open, named: str, target: str) -> None:
    world = await open_world()
    context = world.trust
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(f"CONNECT {REGISTRY}:443 HTTP/1.1\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    await writer.start_tls(context, server_hostname=REGISTRY)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: {named}\r\n\r\n".encode())
    assert await reader.readline() == b"HTTP/1.1 421 Misdirected Request\r\n"
    writer.transport.abort()
    assert not world.asked
    assert not world.host.seen


async def test_a_kept_connection_that_the_host_has_closed_fails_no_push(open_world: Open) -> None:
    world = await open_world()

    async def last(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        asyncio.get_running_loop().call_later(0.02, request.transport.abort)
        return web.Response(status=202)

    for _ in range(5):
        world.host.answer = last
        assert (await world.ask(f"https://{REGISTRY}/token"))[0] == 202
        world.host.answer = None
        assert (await world.ask(f"https://{REGISTRY}/v2/a/blobs/uploads/", "POST"))[0] == 200


async def test_expect_is_answered(open_world: Open) -> None:
    world = await open_world()
    status, _, _ = await world.ask(f"https://{REGISTRY}/v2/a/manifests/x", "PUT", data=BODY, expect100=True)
    assert status == 200
    assert world.host.seen[0][3] == BODY


async def test_a_client_that_does_not_trust_the_authority_is_told_of(open_world: Open) -> None:
    world = await open_world()
    with capture_logs() as logs:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await world.ask(f"https://{REGISTRY}/v2/", ssl=True)
        await until(lambda: world.counted("untrusted") == 1)
    assert any(entry["event"] == "tunnel.untrusted" and "shoal config ca" in entry["hint"] for entry in logs)
    assert world.forward.connects.held == 0


async def test_bytes_before_the_answer_are_no_handshake(open_world: Open) -> None:
    world = await open_world()
    answer = await world.raw(f"CONNECT {REGISTRY}:443 HTTP/1.1\r\n\r\n\x16\x03\x01".encode())
    assert answer.startswith(b"HTTP/1.1 400 ")


# --- other hosts ----------------------------------------------------------------------------------------------------


async def test_another_host_is_tunnelled_byte_for_byte(open_world: Open) -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = await reader.read()  # until the client has ended its side
        writer.write(received.upper())
        writer.close()

    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    world = await open_world(hosts=[f"localhost:{port}"])
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(f"CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost\r\n\r\nearly ".encode())
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 Connection Established\r\n\r\n"
    writer.write(b"x" * 3_000_000)
    writer.write_eof()
    async with asyncio.timeout(10):
        assert await reader.read() == b"EARLY " + b"X" * 3_000_000
    writer.close()
    server.close()
    await until(lambda: world.forward.connects.held == 0)
    assert world.counted("tunnelled") == 1


async def test_an_idle_tunnel_ends(open_world: Open, host: Host) -> None:
    world = await open_world(hosts=[f"localhost:{host.port}"], idle_timeout=1.0)
    answer = await world.raw(f"CONNECT localhost:{host.port} HTTP/1.1\r\n\r\n".encode())
    assert answer == b"HTTP/1.1 200 Connection Established\r\n\r\n"


async def test_a_client_that_leaves_ends_its_tunnel(open_world: Open, host: Host) -> None:
    world = await open_world(hosts=[f"localhost:{host.port}"])
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(f"CONNECT localhost:{host.port} HTTP/1.1\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    await until(lambda: world.forward.connects.held == 0)


async def test_a_host_behind_tls_is_not_opened(open_world: Open, host: Host, tmp_path: Path) -> None:
    """The client sees the certificate of the host itself."""
    other = AuthorityFiles(tmp_path / "other").open()
    runner = web.ServerRunner(web.Server(host.handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=other.context("localhost"))
    await site.start()
    world = await open_world(hosts=[f"localhost:{site.port}"])
    trust = ssl.create_default_context(cadata=other.pem)
    status, _, body = await world.ask(f"https://localhost:{site.port}/v2/", ssl=trust)
    assert (status, body) == (200, b"from the host")
    await runner.cleanup()


@pytest.mark.parametrize(
    ("target", "settings", "status", "reason"),
    [
        ("other.example:443", {"others": "refuse"}, 403, "neither an upstream"),
        ("other.example:22", {}, 403, "port 22"),
        ("127.0.0.1:443", {}, 403, "no public address"),
        ("127.1:443", {}, 403, "no public address"),
        ("[::1]:443", {}, 403, "no public address"),
        ("[::ffff:127.0.0.1]:443", {}, 403, "no public address"),
        ("169.254.169.254:443", {}, 403, "no public address"),
        ("localhost:443", {"hosts": []}, 403, "no public address"),
        ("localhost:1", {"hosts": ["localhost:1"]}, 502, "cannot be reached"),
        ("no-such-name.invalid:443", {}, 502, "cannot be reached"),
        ("a/b:443", {}, 400, "not a host"),
    ],
)
async def test_refusals_say_why(
    open_world: Open, target: str, settings: dict[str, Any], status: int, reason: str
) -> None:
    world = await open_world(**settings)
    answer = await world.raw(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    head, _, body = answer.decode().partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert reason in head.splitlines()[0]
    assert reason in body
    assert "Connection: close" in head


async def test_the_number_of_tunnels_is_bounded(open_world: Open, host: Host) -> None:
    world = await open_world(hosts=[f"localhost:{host.port}"], connections=1)
    request = f"CONNECT localhost:{host.port} HTTP/1.1\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(request)
    await reader.readuntil(b"\r\n\r\n")
    assert (await world.raw(request)).startswith(b"HTTP/1.1 503 ")
    writer.transport.abort()


async def test_leaving_ends_everything(open_world: Open, host: Host) -> None:
    world = await open_world(hosts=[f"localhost:{host.port}"])
    streams = [await asyncio.open_connection("127.0.0.1", world.port) for _ in range(3)]
    for (reader, writer), target in zip(streams, [f"localhost:{host.port}", f"{REGISTRY}:443", ""], strict=True):
        if target:
            writer.write(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(15):
        await world.forward.__aexit__()
        for reader, writer in streams:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.transport.abort()


# --- requests with a whole address ------------------------------------------------------------------------------------


async def test_a_plain_request_to_a_named_host_is_the_mirrors(open_world: Open) -> None:
    world = await open_world()
    status, _, body = await world.ask(f"http://{REGISTRY}/v2/a/manifests/x")
    assert (status, body) == (200, BODY)
    assert world.asked == [("GET", "/v2/a/manifests/x", REGISTRY)]


async def test_a_plain_push_to_a_named_host_is_relayed(open_world: Open) -> None:
    world = await open_world()

    async def created(request: web.Request) -> web.StreamResponse:
        return web.Response(status=202, headers={"Location": f"{world.host.url}/v2/a/blobs/uploads/1"})

    world.host.answer = created
    status, response, _ = await world.ask(f"http://{REGISTRY}/v2/a/blobs/uploads/", "POST")
    assert (status, response.headers["Location"]) == (202, f"http://{REGISTRY}/v2/a/blobs/uploads/1")
    assert world.host.seen[0][:2] == ("POST", "/v2/a/blobs/uploads/")


async def test_a_plain_request_to_another_host_is_forwarded(open_world: Open, host: Host) -> None:
    world = await open_world(hosts=[f"localhost:{host.port}"])
    status, _, body = await world.ask(f"http://localhost:{host.port}/x?y=%2B")
    assert (status, body) == (200, b"from the host")
    assert host.seen[0][:2] == ("GET", "/x?y=%2B")


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("http://127.0.0.1/x", {"ports": [80]}),
        ("http://[::1]/x", {"ports": [80]}),
        ("http://localhost/x", {"ports": [80], "hosts": []}),
        ("http://other.example/x", {}),
        ("http://other.example/x", {"ports": [80], "others": "refuse"}),
        ("https://registry.made/v2/", {}),
    ],
)
async def test_plain_requests_are_refused_by_the_same_rules(
    open_world: Open, url: str, settings: dict[str, Any]
) -> None:
    world = await open_world(**settings)
    answer = await world.raw(f"GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b'"code":"DENIED"' in answer


async def test_a_mirror_that_is_no_proxy_does_not_answer_for_other_hosts(front: Front) -> None:
    answer = await front.raw(
        b"GET http://other.example/v2/a/manifests/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"proxy.tunnel.enabled" in answer


async def test_connect_behind_another_request_is_refused_at_once(open_world: Open) -> None:
    world = await open_world()
    first = b"GET /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await world.raw(
        first + f"CONNECT {REGISTRY}:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    )
    assert b"HTTP/1.1 404 Not Found\r\n" in answer


async def test_the_mirrors_own_requests_are_what_they_were(open_world: Open) -> None:
    world = await open_world()
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{world.port}/v2/a/manifests/x") as response:
            assert await response.read() == BODY
        async with session.get(f"http://127.0.0.1:{world.port}/else") as response:
            assert response.status == 404
    assert world.asked == [("GET", "/v2/a/manifests/x", None)]
    assert Registry(REGISTRY) == REGISTRY
