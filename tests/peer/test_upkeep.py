"""What a store's upkeep tells of how full it is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from peer.figures import StoreFigures
from peer.metrics import PeerMetrics
from peer.store import Store
from peer.tally import Tally
from peer.upkeep import Upkeep
from peer.workers import Workers
from shoal.descriptor import BlobKey
from shoal.digest import Digest

CONTENT = b"measured"


class Nobody:
    """Is told of blobs."""

    def offer(self, key: BlobKey) -> None: ...


@pytest.fixture
async def upkeep(store: Store, workers: Workers) -> AsyncIterator[Upkeep]:
    upkeep = Upkeep(store, workers, 0.0, Nobody(), PeerMetrics(CollectorRegistry(), Tally()))
    running = asyncio.ensure_future(upkeep.run())
    yield upkeep
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_was_stored_a_moment_ago_is_measured(store: Store, upkeep: Upkeep) -> None:
    assert (await upkeep.measure()).size == 0
    store.put(Digest.of(CONTENT), CONTENT)
    assert (await upkeep.measure()).size == len(CONTENT)


async def test_who_asks_does_not_wait_for_a_disk_that_does_not_answer(
    store: Store, upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = await upkeep.measure()
    answers = threading.Event()

    def figures() -> StoreFigures:
        answers.wait()
        return StoreFigures()

    monkeypatch.setattr(store, "figures", figures)
    monkeypatch.setattr("peer.upkeep._PATIENCE_SECONDS", 0.05)
    try:
        assert await upkeep.measure() == await upkeep.measure() == known
    finally:
        answers.set()
