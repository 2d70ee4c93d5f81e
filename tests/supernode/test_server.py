"""The supernode over real WebSockets: what is hostile is dropped with a word, everybody else is served on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import aiohttp.web
import msgpack
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from shoal.descriptor import BlobKind, Descriptor
from shoal.digest import Digest
from shoal.handshake import SEAL_SIZE
from shoal.messages import BlobRef
from shoal.reference import Location, Tag
from supernode import protocol
from supernode.client import ControlClient
from supernode.server import SupernodeServer
from supernode.settings import SupernodeSettings
from supernode.tracker import Tracker

AT = Location.parse("docker.io", "library/busybox")
FOUND = Descriptor(Digest.of(b"manifest"), 8, "x/y", BlobKind.MANIFEST)


@pytest.fixture
async def server() -> AsyncIterator[SupernodeServer]:
    async with SupernodeServer(SupernodeSettings(port=0), CollectorRegistry()) as server:
        yield server


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def hello(peer: str = 32 * "a", version: int = protocol.VERSION) -> bytes:
    return protocol.from_peer.encode(protocol.Hello(version, peer, 1000))


async def receive(socket: aiohttp.ClientWebSocketResponse) -> protocol.FromSupernode:
    frame = await socket.receive(timeout=5)
    assert frame.type is aiohttp.WSMsgType.BINARY, frame
    return protocol.from_supernode.decode(frame.data)


def packed(**fields: object) -> bytes:
    data: bytes = msgpack.packb(fields)
    return data


ATTACKS = {
    "no hello first": [protocol.from_peer.encode(protocol.Announce([]))],
    "a wrong version": [hello(version=99)],
    "a peer id that is none": [hello("../../etc")],
    "bytes that are no message": [hello(), b"\xc1"],
    "a truncated message": [hello(), protocol.from_peer.encode(protocol.Close([BlobRef(32 * "x", 1)]))[:-3]],
    "an unknown kind": [hello(), packed(t="bogus")],
    "a field of a wrong type": [hello(), packed(t="close", blobs="all")],
    "a number beyond all blobs": [hello(), packed(t="progress", lease=1, first=1 << 40, digests=b"")],
    "a second hello": [hello(), hello()],
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_a_hostile_peer_is_refused_with_one_log_line(
    server: SupernodeServer, session: aiohttp.ClientSession, name: str
) -> None:
    with capture_logs() as logs:
        async with session.ws_connect(f"http://127.0.0.1:{server.port}{protocol.PATH}") as socket:
            for data in ATTACKS[name]:
                await socket.send_bytes(data)
            answers = [frame async for frame in socket]
    refusals = [protocol.from_supernode.decode(frame.data) for frame in answers]
    assert isinstance(refusals[-1], protocol.Refused)
    assert [entry["event"] for entry in logs].count("peer.refused") == 1
    assert not [entry for entry in logs if entry["log_level"] == "error"]


async def test_a_peer_that_dies_is_not_blamed_for_what_it_said(session: aiohttp.ClientSession) -> None:
    registry = CollectorRegistry()
    async with SupernodeServer(SupernodeSettings(port=0, announce_interval=0.1), registry) as server:
        address = f"http://127.0.0.1:{server.port}{protocol.PATH}"
        with capture_logs() as logs:
            async with session.ws_connect(address, autoping=False) as socket:
                await socket.send_bytes(hello())
                async for _ in socket:
                    pass
    assert [entry["reason"] for entry in logs if entry["event"] == "peer.refused"] == ["it has gone without a word"]
    assert registry.get_sample_value("shoal_supernode_dropped_connections_total", {"reason": "silent"}) == 1


async def test_what_is_wrong_about_one_blob_is_refused_for_it_alone(
    server: SupernodeServer, session: aiohttp.ClientSession
) -> None:
    bad = protocol.Wanted("sha256:x", 100, "docker.io", "a/b")
    good = protocol.Wanted(Digest.of(b"x"), 100, "docker.io", "a/b")
    async with session.ws_connect(f"http://127.0.0.1:{server.port}{protocol.PATH}") as socket:
        await socket.send_bytes(hello())
        assert isinstance(await receive(socket), protocol.Welcome)
        await socket.send_bytes(protocol.from_peer.encode(protocol.Open([bad, good])))
        refused = await receive(socket)
        assert isinstance(refused, protocol.BlobRefused)
        assert refused.digest == bad.digest
        assert isinstance(await receive(socket), protocol.Handout)


async def test_an_oversized_message_ends_the_connection(
    server: SupernodeServer, session: aiohttp.ClientSession
) -> None:
    async with session.ws_connect(f"http://127.0.0.1:{server.port}{protocol.PATH}") as socket:
        await socket.send_bytes(hello())
        assert isinstance(await receive(socket), protocol.Welcome)
        with contextlib.suppress(ConnectionError):  # it may be gone before all is sent
            await socket.send_bytes(bytes(protocol.MAX_MESSAGE_SIZE + SEAL_SIZE + 1))
        frame = await socket.receive(timeout=5)
        assert frame.type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}


async def test_unknown_fields_are_ignored(server: SupernodeServer, session: aiohttp.ClientSession) -> None:
    async with session.ws_connect(f"http://127.0.0.1:{server.port}{protocol.PATH}") as socket:
        await socket.send_bytes(packed(t="hello", version=protocol.VERSION, peer=32 * "a", port=1000, flavour="new"))
        assert isinstance(await receive(socket), protocol.Welcome)


async def test_other_peers_are_not_disturbed(server: SupernodeServer, session: aiohttp.ClientSession) -> None:
    url = f"http://127.0.0.1:{server.port}{protocol.PATH}"
    async with session.ws_connect(url) as good, session.ws_connect(url) as bad:
        await good.send_bytes(hello())
        await receive(good)
        await bad.send_bytes(b"\xc1")
        await bad.receive(timeout=5)
        wanted = protocol.Wanted(Digest.of(b"x"), 100, "docker.io", "a/b")
        await good.send_bytes(protocol.from_peer.encode(protocol.Open([wanted])))
        assert isinstance(await receive(good), protocol.Handout)


async def test_a_peer_that_connects_again_takes_the_place_of_its_older_connection(
    server: SupernodeServer, session: aiohttp.ClientSession
) -> None:
    url = f"http://127.0.0.1:{server.port}{protocol.PATH}"
    async with session.ws_connect(url) as first, session.ws_connect(url) as second:
        await first.send_bytes(hello())
        await receive(first)
        await second.send_bytes(hello())
        assert isinstance(await receive(second), protocol.Welcome)
        frame = await first.receive(timeout=5)
        assert frame.type is not aiohttp.WSMsgType.BINARY


class Listener:
    """A peer's ears."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.welcome = asyncio.Event()
        self.lost_it = asyncio.Event()
        self.heard: list[protocol.FromSupernode] = []

    def hello(self) -> protocol.Hello:
        return protocol.Hello(protocol.VERSION, 32 * self._name, 1000)

    def welcomed(self, announce_interval: float) -> None:
        self.welcome.set()

    def receive(self, message: protocol.FromSupernode) -> None:
        self.heard.append(message)

    def lost(self) -> None:
        self.lost_it.set()


async def test_the_client_connects_again_when_the_supernode_is_back() -> None:
    registry = CollectorRegistry()
    async with SupernodeServer(SupernodeSettings(port=0), registry) as server:
        port = server.port
        client, listener = ControlClient(f"http://127.0.0.1:{port}"), Listener("a")
        running = asyncio.create_task(client.run(listener))
        await asyncio.wait_for(listener.welcome.wait(), 5)
    await asyncio.wait_for(listener.lost_it.wait(), 5)
    assert not client.connected
    assert await client.resolve(AT, Tag("latest"), BlobKind.MANIFEST, "anonymous", 60.0) is None
    listener.welcome.clear()
    async with SupernodeServer(SupernodeSettings(port=port), CollectorRegistry()):
        await asyncio.wait_for(listener.welcome.wait(), 10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_tag_is_asked_of_the_origin_by_one_and_told_to_the_other(server: SupernodeServer) -> None:
    url = f"http://127.0.0.1:{server.port}"
    clients = [(ControlClient(url), Listener(name)) for name in "ab"]
    running = [asyncio.create_task(client.run(listener)) for client, listener in clients]
    for _, listener in clients:
        await asyncio.wait_for(listener.welcome.wait(), 5)
    (first, _), (second, _) = clients
    asked = await first.resolve(AT, Tag("latest"), BlobKind.MANIFEST, "anonymous", 60.0)
    assert asked is not None
    assert asked.state == "ask"
    waiting = asyncio.create_task(second.resolve(AT, Tag("latest"), BlobKind.MANIFEST, "anonymous", 60.0))
    await asyncio.sleep(0)
    first.publish(AT, Tag("latest"), BlobKind.MANIFEST, "anonymous", FOUND, missing=False)
    answer = await waiting
    assert answer is not None
    assert (answer.state, answer.digest, answer.size) == ("fresh", FOUND.digest, 8)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_a_question_without_an_answer_is_given_up_in_bounded_time(session: aiohttp.ClientSession) -> None:
    """A supernode that welcomes and then says nothing more."""

    async def serve(request: aiohttp.web.Request) -> aiohttp.web.WebSocketResponse:
        socket = aiohttp.web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_bytes(protocol.from_supernode.encode(protocol.Welcome(protocol.VERSION, 5.0)))
        async for _ in socket:
            pass
        return socket

    app = aiohttp.web.Application()
    app.router.add_get(protocol.PATH, serve)
    runner = aiohttp.web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
    client, listener = ControlClient(f"http://127.0.0.1:{runner.addresses[0][1]}", wait=0.05), Listener("a")
    running = asyncio.create_task(client.run(listener))
    await asyncio.wait_for(listener.welcome.wait(), 5)
    assert await client.resolve(AT, Tag("latest"), BlobKind.MANIFEST, "anonymous", 60.0) is None
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await runner.cleanup()


async def test_a_tick_that_fails_is_logged_and_the_next_ones_come(monkeypatch: pytest.MonkeyPatch) -> None:
    tick, failed, went_on = Tracker.tick, asyncio.Event(), asyncio.Event()

    def flaky(tracker: Tracker, now: float) -> None:
        if not failed.is_set():
            failed.set()
            raise KeyError("a fault")
        tick(tracker, now)
        went_on.set()

    monkeypatch.setattr(Tracker, "tick", flaky)
    monkeypatch.setattr("supernode.server._FAULT_SECONDS", 0.01)
    with capture_logs() as logs:
        async with SupernodeServer(SupernodeSettings(port=0), CollectorRegistry()), asyncio.timeout(5):
            await went_on.wait()
    assert [line["event"] for line in logs].count("supernode.tick_failed") == 1
