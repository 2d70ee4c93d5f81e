"""The client's connection: whatever ends it, another one is made."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from shoal.digest import Digest
from supernode import client as client_module
from supernode import protocol
from supernode.client import ControlClient
from supernode.server import SupernodeServer
from supernode.settings import SupernodeSettings

WANTED = protocol.Wanted(Digest.of(b"x"), 100, "docker.io", "a/b")


def nothing() -> None:
    pass


class Listener:
    """A peer's ears; what it does when something happens can be changed."""

    def __init__(self) -> None:
        self.welcomes: asyncio.Queue[None] = asyncio.Queue()
        self.heard: asyncio.Queue[protocol.FromSupernode] = asyncio.Queue()
        self.faults: dict[str, Callable[[], None]] = {}

    def hello(self) -> protocol.Hello:
        self.faults.pop("hello", nothing)()
        return protocol.Hello(protocol.VERSION, 32 * "a", 1000)

    def welcomed(self, announce_interval: float) -> None:
        self.faults.pop("welcomed", nothing)()
        self.welcomes.put_nowait(None)

    def receive(self, message: protocol.FromSupernode) -> None:
        self.faults.pop("receive", nothing)()
        self.heard.put_nowait(message)

    def lost(self) -> None:
        self.faults.pop("lost", nothing)()


def fault() -> None:
    raise KeyError("a fault")


@contextlib.asynccontextmanager
async def running(client: ControlClient, listener: Listener) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(client.run(listener))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SupernodeServer]:
    monkeypatch.setattr(client_module, "_FAULT_SECONDS", 0.01)
    async with SupernodeServer(SupernodeSettings(port=0), CollectorRegistry()) as server:
        yield server


@pytest.mark.parametrize("where", ["hello", "welcomed"])
async def test_a_fault_of_the_listener_at_the_start_is_logged_and_another_connection_made(
    server: SupernodeServer, where: str
) -> None:
    client, listener = ControlClient(f"http://127.0.0.1:{server.port}"), Listener()
    listener.faults[where] = fault
    with capture_logs() as logs:
        async with running(client, listener), asyncio.timeout(5):
            await listener.welcomes.get()
    assert [line["event"] for line in logs].count("supernode.connection_failed") == 1


async def test_a_message_that_the_listener_cannot_handle_ends_this_connection_alone(server: SupernodeServer) -> None:
    client, listener = ControlClient(f"http://127.0.0.1:{server.port}"), Listener()
    listener.faults = {"receive": fault, "lost": fault}
    with capture_logs() as logs:
        async with running(client, listener), asyncio.timeout(5):
            await listener.welcomes.get()
            client.send(protocol.Open([WANTED]))
            await listener.welcomes.get()
            client.send(protocol.Open([WANTED]))
            assert isinstance(await listener.heard.get(), protocol.Handout)
    events = [line["event"] for line in logs]
    assert events.count("supernode.connection_failed") == events.count("supernode.listener_failed") == 1


async def test_a_connection_on_which_nothing_can_be_sent_is_given_up(
    server: SupernodeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, listener = ControlClient(f"http://127.0.0.1:{server.port}"), Listener()
    async with running(client, listener), asyncio.timeout(5):
        await listener.welcomes.get()

        async def fails(*_: object) -> None:
            monkeypatch.undo()
            raise aiohttp.ClientConnectionResetError("closed")

        monkeypatch.setattr(aiohttp.ClientWebSocketResponse, "send_bytes", fails)
        client.send(protocol.Announce())
        await listener.welcomes.get()


async def test_a_fault_while_it_is_stopped_does_not_keep_it_running(server: SupernodeServer) -> None:
    client, listener = ControlClient(f"http://127.0.0.1:{server.port}"), Listener()
    listener.faults = {"lost": fault}
    async with running(client, listener) as task, asyncio.timeout(5):
        await listener.welcomes.get()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert task.cancelled()


def test_an_attempt_follows_the_last_one_within_a_second() -> None:
    assert client_module._BACKOFF.max <= 1.0
