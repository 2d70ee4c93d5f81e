"""The control plane of a cluster with a secret or certificates, and what strangers can do to its port."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from shoal.cluster import ClusterSettings
from shoal.handshake import SUPERNODE, Initiator, SecretKey, key_of
from shoal.membership import Membership
from shoal.messages import InvalidMessage
from supernode import door, protocol
from supernode import server as module
from supernode.client import ControlClient
from supernode.server import SupernodeServer
from supernode.settings import SupernodeSettings
from tests.world.certificates import Authority

SECRET, ANOTHER = "correct horse battery", "incorrect horse battery"
PEER = 32 * "a"
PATIENCE = 5.0


class Welcomed:
    """Whom a control client tells that it is in."""

    def __init__(self, peer: str = PEER) -> None:
        self.peer = peer
        self.welcomes: asyncio.Queue[float] = asyncio.Queue()

    def hello(self) -> protocol.Hello:
        return protocol.Hello(protocol.VERSION, self.peer, 1000)

    def welcomed(self, announce_interval: float) -> None:
        self.welcomes.put_nowait(announce_interval)

    def receive(self, message: protocol.FromSupernode) -> None:
        pass

    def lost(self) -> None:
        pass


@asynccontextmanager
async def supernode(settings: ClusterSettings | None = None) -> AsyncIterator[SupernodeServer]:
    async with SupernodeServer(SupernodeSettings(port=0), CollectorRegistry(), Membership(settings)) as server:
        yield server


@asynccontextmanager
async def calling(port: int, settings: ClusterSettings, host: str = "127.0.0.1") -> AsyncIterator[Welcomed]:
    scheme = "https" if settings.uses_tls else "http"
    client, listener = ControlClient(f"{scheme}://{host}:{port}", membership=Membership(settings)), Welcomed()
    task = asyncio.create_task(client.run(listener))
    try:
        yield listener
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_member_is_welcome_by_secret(tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    file.write_text(f"{ANOTHER}\n{SECRET}\n")
    async with (
        supernode(ClusterSettings(secret_file=str(file))) as server,
        calling(server.port, ClusterSettings(secret=SECRET)) as listener,
    ):
        await asyncio.wait_for(listener.welcomes.get(), PATIENCE)


async def test_a_member_is_welcome_by_certificate_where_the_supernode_has_the_name_that_was_called(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    mine = authority.members("node.test")
    async with supernode(authority.members("127.0.0.1")) as server, calling(server.port, mine) as listener:
        await asyncio.wait_for(listener.welcomes.get(), PATIENCE)
    with capture_logs() as logs:
        async with supernode(authority.members("other.test")) as server, calling(server.port, mine) as listener:
            await until(lambda: "supernode.unreachable" in [entry["event"] for entry in logs])
            assert listener.welcomes.empty()


@pytest.mark.parametrize(
    ("theirs", "mine"),
    [
        (ClusterSettings(secret=SECRET), ClusterSettings(secret=ANOTHER)),
        (ClusterSettings(secret=SECRET), ClusterSettings()),
        (ClusterSettings(), ClusterSettings(secret=SECRET)),
    ],
    ids=["another secret", "no secret", "a secret where there is none"],
)
async def test_who_is_of_another_cluster_is_refused_and_both_sides_say_so(
    theirs: ClusterSettings, mine: ClusterSettings
) -> None:
    with capture_logs() as logs:
        async with supernode(theirs) as server, calling(server.port, mine) as listener:
            mine_says = {"supernode.refused", "supernode.not_of_this_cluster"}
            await until(lambda: mine_says & {entry["event"] for entry in logs})
            assert listener.welcomes.empty()
            assert server.tracker.peers == 0
    told = [entry["reason"] for entry in logs if entry["event"] in mine_says | {"peer.refused"}]
    assert len(told) >= 2
    assert all("secret" in reason for reason in told)
    assert SECRET not in str(logs)


async def test_a_stranger_learns_nothing_from_the_control_port() -> None:
    """Neither by asking at once, nor with a recorded handshake, nor unsealed in the session of a member."""
    resolve = protocol.from_peer.encode(protocol.Resolve(1, "docker.io", "library/good", "1", "manifest"))
    hello = protocol.from_peer.encode(protocol.Hello(protocol.VERSION, PEER, 1000))
    async with supernode(ClusterSettings(secret=SECRET)) as server, aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{server.port}{protocol.PATH}"
        recorded = await handshake(http, url, key_of(SECRET), [])
        for messages in ([hello, resolve], [resolve], [b""], recorded):
            async with http.ws_connect(url) as socket:
                for message in messages:
                    await socket.send_bytes(message)
                answers = [frame.data async for frame in socket]
            assert not {"welcome", "resolved"} & {kind(answer) for answer in answers}
        answers = await handshake(http, url, key_of(SECRET), [hello, resolve])
        assert not {"welcome", "resolved"} & {kind(answer) for answer in answers}
        assert server.tracker.peers == 0


async def handshake(http: aiohttp.ClientSession, url: str, key: SecretKey, then: list[bytes]) -> list[bytes]:
    """Prove membership, send `then` unsealed, and return what came after the proof; without, what was sent."""
    side, sent = Initiator(key, "control", PEER, SUPERNODE, bytes(32)), []
    async with http.ws_connect(url) as socket:
        message: bytes | None = side.opening()
        while message is not None:
            sent.append(message)
            await socket.send_bytes(message)
            message = side.received((await socket.receive(timeout=PATIENCE)).data)
        for data in then:
            await socket.send_bytes(data)
        return [frame.data async for frame in socket] if then else sent


def kind(answer: object) -> str:
    assert isinstance(answer, bytes)
    with contextlib.suppress(InvalidMessage):
        return type(protocol.from_supernode.decode(answer)).__name__.lower()
    return "nothing that is readable"


async def test_without_a_certificate_nobody_is_let_in(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with supernode(authority.members("127.0.0.1")) as server, aiohttp.ClientSession() as http:
        url = f"https://127.0.0.1:{server.port}"
        with pytest.raises(aiohttp.WSServerHandshakeError) as error:
            await http.ws_connect(f"{url}{protocol.PATH}", ssl=False)
        assert error.value.status == 403


async def test_who_leaves_in_mid_handshake_is_no_fault_of_the_supernode() -> None:
    with capture_logs() as logs:
        async with supernode(ClusterSettings(secret=SECRET)) as server, aiohttp.ClientSession() as http:
            opening = Initiator(key_of(SECRET), "control", PEER, SUPERNODE, bytes(32)).opening()
            for _ in range(5):
                web = await http.ws_connect(f"http://127.0.0.1:{server.port}{protocol.PATH}")
                await web.send_bytes(opening)
                assert web._response.connection is not None
                assert web._response.connection.transport is not None
                web._response.connection.transport.abort()
            await asyncio.sleep(0.1)
    assert not [entry for entry in logs if entry["log_level"] == "error"]


# --- without a secret -------------------------------------------------------------------------------------------------


async def test_nobody_takes_a_peers_place_from_another_address() -> None:
    hello = protocol.from_peer.encode(protocol.Hello(protocol.VERSION, PEER, 1000))
    elsewhere = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    async with (
        supernode() as server,
        calling(server.port, ClusterSettings()) as listener,
        aiohttp.ClientSession(connector=elsewhere) as http,
    ):
        await asyncio.wait_for(listener.welcomes.get(), PATIENCE)
        async with http.ws_connect(f"http://127.0.0.1:{server.port}{protocol.PATH}") as socket:
            await socket.send_bytes(hello)
            assert kind((await socket.receive(timeout=PATIENCE)).data) == "refused"
        assert server.tracker.peers == 1
        assert listener.welcomes.empty()


async def test_made_up_peers_of_one_address_leave_places_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PEERS_OF_ADDRESS", 2)
    async with supernode() as server, contextlib.AsyncExitStack() as stack:
        kinds = []
        for number, source in enumerate(["127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.3"]):
            http = await stack.enter_async_context(
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(source, 0)))
            )
            url = f"http://127.0.0.1:{server.port}{protocol.PATH}"
            web = await stack.enter_async_context(http.ws_connect(url))
            await web.send_bytes(protocol.from_peer.encode(protocol.Hello(protocol.VERSION, f"{number:032x}", 1000)))
            kinds.append(kind((await web.receive(timeout=PATIENCE)).data))
        assert kinds == ["welcome", "welcome", "refused", "welcome"]


# --- strangers at the port --------------------------------------------------------------------------------------------


@pytest.fixture
def few_descriptors() -> Iterator[int]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        yield 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("head", [b"", b"GET /v1/control HTTP/1.1\r\nHost: x\r\n"])
@pytest.mark.parametrize("is_certified", [False, True])
async def test_a_crowd_that_asks_for_nothing_keeps_no_peer_out(
    few_descriptors: int, head: bytes, is_certified: bool, tmp_path: Path
) -> None:
    cluster = Authority(tmp_path).members("127.0.0.1") if is_certified else ClusterSettings()
    async with supernode(cluster) as server:
        with ExitStack() as stack:
            for number in range(200):
                stranger = stack.enter_context(socket.socket())
                stranger.bind((f"127.0.1.{number % 3}", 0))
                stranger.setblocking(False)
                stranger.connect_ex(("127.0.0.1", server.port))
                await asyncio.sleep(0.001)
                with contextlib.suppress(OSError):
                    stranger.send(head)
            async with calling(server.port, cluster) as listener:
                await asyncio.wait_for(listener.welcomes.get(), PATIENCE)
            assert len(server._door._strangers) <= few_descriptors // door._STRANGERS_SHARE


async def test_a_request_that_never_comes_to_its_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REQUEST_SECONDS", 0.2)
    async with supernode() as server:
        for head in (b"", b"GET /v1/control HTTP/1.1\r\nHost:"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(head)
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
            writer.close()


async def test_headers_without_end_are_refused() -> None:
    async with supernode() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /healthz HTTP/1.1\r\n" + b"X: " + bytes(8000).replace(b"\0", b"y") + b"\r\n\r\n")
        assert b" 400 " in await asyncio.wait_for(reader.read(100), PATIENCE)
        writer.close()


@pytest.mark.parametrize("secret", ["", SECRET])
async def test_a_stranger_does_not_fill_the_memory(secret: str) -> None:
    async with (
        supernode(ClusterSettings(secret=secret)) as server,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"http://127.0.0.1:{server.port}{protocol.PATH}") as web,
    ):
        assert web._response.connection is not None
        transport = web._response.connection.transport
        assert transport is not None
        transport.write(b"\x82\xff" + (4 << 20).to_bytes(8, "big") + bytes(4 + (1 << 20)))
        assert (await web.receive(timeout=2.0)).type is not aiohttp.WSMsgType.BINARY
