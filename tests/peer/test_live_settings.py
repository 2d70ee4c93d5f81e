"""Settings that change while a peer runs."""

from __future__ import annotations

import asyncio
import random

import pytest
from prometheus_client import CollectorRegistry

from peer.metrics import PeerMetrics
from peer.settings import CacheSettings, PeerSettings
from peer.store import Store
from peer.tally import Tally
from peer.upkeep import Upkeep
from peer.uploads import Upload, UploadSlots
from peer.workers import Workers
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.limits import LimitSettings, Traffic
from supernode.protocol import PeerId
from tests.world.engines import Start

MIB = 1 << 20
KEY = BlobKey(Digest.of(b"blob"), MIB)


def test_the_store_holds_what_it_is_told_to(store: Store) -> None:
    assert store.fits(2 * MIB)
    store.reconfigure(CacheSettings(high="1MiB", low="1MiB"))
    assert not store.fits(2 * MIB)


def test_more_slots_serve_more_at_a_time() -> None:
    slots = UploadSlots(random.Random(1), 1, 0)
    uploads = [Upload(PeerId(f"{place:032x}"), KEY, 0) for place in range(3)]
    assert [slots.request(upload) for upload in uploads[:2]] == [True, False]
    slots.slots = 2
    assert slots.request(uploads[1]) is True


async def test_an_engine_takes_over_what_is_live(start: Start) -> None:
    engine = await start("a")
    engine.limits.order(Traffic.UPLOAD, 1e6)
    settings = PeerSettings(limits=LimitSettings(download=2e6), image_ahead=False, upload_slots=3, origin_wait=7.0)
    engine.reconfigure(settings)
    assert engine.limits.said == LimitSettings(download=2e6)
    assert engine.machine.exchange.requests.limit == 2e6
    assert not engine.supply.image_ahead


async def test_stored_blobs_begin_to_be_hashed_again_when_a_period_is_set(
    store: Store, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, loop = asyncio.Event(), asyncio.get_running_loop()
    monkeypatch.setattr(store, "longest_unchecked", lambda: loop.call_soon_threadsafe(looked.set) and None)
    upkeep = Upkeep(store, workers, 0.0, Offers(), PeerMetrics(CollectorRegistry(), Tally()))
    running = asyncio.ensure_future(upkeep.run())
    await asyncio.sleep(0.05)
    assert not looked.is_set()
    upkeep.reconfigure(3600.0)
    await asyncio.wait_for(looked.wait(), 5)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class Offers:
    """Nobody is told of anything."""

    def offer(self, key: BlobKey) -> None: ...
