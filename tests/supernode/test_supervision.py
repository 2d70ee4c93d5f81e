"""Faults of the supernode's own, and peers that hold a connection without taking part: others are served on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import aiohttp.web
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from shoal.digest import Digest
from supernode import protocol
from supernode.protocol import PeerId
from supernode.server import SupernodeServer
from supernode.settings import SupernodeSettings
from supernode.tracker import Tracker

A, B = PeerId(32 * "a"), PeerId(32 * "b")
OPEN = protocol.from_peer.encode(protocol.Open([protocol.Wanted(Digest.of(b"x"), 100, "docker.io", "a/b")]))


@pytest.fixture
async def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def server(registry: CollectorRegistry) -> AsyncIterator[SupernodeServer]:
    async with SupernodeServer(SupernodeSettings(port=0), registry) as server:
        yield server


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def joined(
    session: aiohttp.ClientSession, server: SupernodeServer, peer: PeerId
) -> aiohttp.ClientWebSocketResponse:
    socket = await session.ws_connect(f"http://127.0.0.1:{server.port}{protocol.PATH}")
    await socket.send_bytes(protocol.from_peer.encode(protocol.Hello(protocol.VERSION, peer, 1000)))
    assert isinstance(await receive(socket), protocol.Welcome)
    return socket


async def receive(socket: aiohttp.ClientWebSocketResponse) -> protocol.FromSupernode:
    frame = await socket.receive(timeout=5)
    assert frame.type is aiohttp.WSMsgType.BINARY, frame
    return protocol.from_supernode.decode(frame.data)


async def test_a_fault_in_the_tracker_ends_the_connection_that_it_came_with_and_no_other(
    server: SupernodeServer, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Tracker.receive

    def flaky(tracker: Tracker, peer: PeerId, message: protocol.FromPeer, now: float) -> None:
        if peer == A:
            raise KeyError("a fault")
        take(tracker, peer, message, now)

    bad, good = await joined(session, server, A), await joined(session, server, B)
    monkeypatch.setattr(Tracker, "receive", flaky)
    with capture_logs() as logs:
        await bad.send_bytes(OPEN)
        assert isinstance(await receive(bad), protocol.Refused)
        assert (await bad.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
        await good.send_bytes(OPEN)
        assert await receive(good) == protocol.Handout(Digest.of(b"x"), 100, [])
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["peer.failed"]


async def test_a_message_that_cannot_be_sent_is_logged_and_does_not_harm_the_one_that_caused_it(
    server: SupernodeServer, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Tracker.take
    huge = protocol.TableNews(Digest.of(b"x"), 100, b"", bytes(protocol.MAX_MESSAGE_SIZE))

    def also_huge(tracker: Tracker) -> list[tuple[list[PeerId], protocol.FromSupernode]]:
        monkeypatch.setattr(Tracker, "take", take)
        return [([A], huge), *((list(peers), message) for peers, message in take(tracker))]

    socket = await joined(session, server, A)
    with capture_logs() as logs:
        monkeypatch.setattr(Tracker, "take", also_huge)
        await socket.send_bytes(OPEN)
        assert isinstance(await receive(socket), protocol.Handout)
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["supernode.message_not_sent"]


async def test_a_connection_on_which_nothing_can_be_sent_is_ended(
    server: SupernodeServer, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise RuntimeError("a fault")

    socket = await joined(session, server, A)
    with capture_logs() as logs:
        monkeypatch.setattr(aiohttp.web.WebSocketResponse, "send_bytes", fails)
        await socket.send_bytes(OPEN)
        frame = await socket.receive(timeout=5)
    assert frame.type is not aiohttp.WSMsgType.BINARY
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["peer.sending_failed"]


async def test_a_peer_that_floods_leaves_others_their_turn(
    server: SupernodeServer, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, order = Tracker.receive, []

    def noted(tracker: Tracker, peer: PeerId, message: protocol.FromPeer, now: float) -> None:
        order.append(peer)
        take(tracker, peer, message, now)

    flood, other = await joined(session, server, A), await joined(session, server, B)
    monkeypatch.setattr(Tracker, "receive", noted)
    alive = protocol.from_peer.encode(protocol.Announce())
    for socket in (flood, other):
        for _ in range(300):
            await socket.send_bytes(alive)
    await other.send_bytes(OPEN)
    while not isinstance(await receive(other), protocol.Handout):
        pass
    longest = max(len(run) for run in "".join("a" if peer == A else "b" for peer in order).split("b"))
    assert longest < 300


async def test_messages_are_counted_by_their_kinds(
    server: SupernodeServer, session: aiohttp.ClientSession, registry: CollectorRegistry
) -> None:
    socket = await joined(session, server, A)
    await socket.send_bytes(OPEN)
    assert isinstance(await receive(socket), protocol.Handout)
    name = "shoal_supernode_messages_total"
    assert registry.get_sample_value(name, {"direction": "in", "kind": "Open"}) == 1
    assert registry.get_sample_value(name, {"direction": "out", "kind": "Handout"}) == 1
