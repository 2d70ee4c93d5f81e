"""What tests of a peer's parts have in common."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from peer.budget import Budget
from peer.engine import Engine
from peer.settings import PeerSettings
from peer.store import Store
from peer.workers import Workers
from supernode.client import ControlClient
from supernode.server import SupernodeServer
from supernode.settings import SupernodeSettings
from tests.world.engines import MemoryOrigin, Start, until


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    store.open()
    yield store
    store.close()


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    workers = Workers()
    yield workers
    workers.close()


@pytest.fixture
def origin() -> MemoryOrigin:
    origin = MemoryOrigin()
    origin.gate.set()
    return origin


@pytest.fixture
async def stack() -> AsyncIterator[contextlib.AsyncExitStack]:
    async with contextlib.AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def start(stack: contextlib.AsyncExitStack, origin: MemoryOrigin, tmp_path: Path) -> Start:
    """Starts an engine by name; the same name has the same store."""

    async def begin(name: str, supernode: SupernodeServer | None = None, budget: Budget | None = None) -> Engine:
        store = Store(tmp_path / name)
        store.open()
        stack.callback(store.close)
        control = ControlClient(f"http://127.0.0.1:{supernode.port}") if supernode else None
        settings = PeerSettings(host="127.0.0.1", port=0, origin_wait=0.5)
        engine = Engine(settings, store, origin, control, CollectorRegistry(), budget or Budget())
        await stack.enter_async_context(engine)
        await until(lambda: supernode is None or engine.machine.connected)
        return engine

    return begin


@pytest.fixture
async def supernode(stack: contextlib.AsyncExitStack) -> SupernodeServer:
    return await stack.enter_async_context(SupernodeServer(SupernodeSettings(port=0), CollectorRegistry()))
