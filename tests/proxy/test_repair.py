"""Damaged blobs come again from where they were named, as far as anybody needs them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

import peer.upkeep
from peer.budget import Budget
from peer.engine import Engine
from peer.settings import CacheSettings, PeerSettings
from peer.store import Store
from proxy.catalogue import Catalogue
from proxy.repair import Repair
from proxy.verification import Verification
from shoal.descriptor import BlobKind, Descriptor
from shoal.digest import Digest
from shoal.reference import Location
from tests.world.engines import AT, MemoryOrigin, read, until
from tests.world.images import random_bytes

ELSEWHERE = Location.parse("quay.io", "no/such")
LAYER = random_bytes(700_000, "layer")


class World:
    """An engine that has pulled an image, and what mends it."""

    def __init__(self, engine: Engine, origin: MemoryOrigin, catalogue: Catalogue, repair: Repair) -> None:
        self.engine = engine
        self.origin = origin
        self.catalogue = catalogue
        self.repair = repair
        self.layer = origin.put(LAYER)
        entry = {"digest": self.layer.digest, "size": self.layer.size}
        described = origin.put(json.dumps({"schemaVersion": 2, "config": entry, "layers": [entry]}).encode())
        self.manifest = Descriptor(described.digest, described.size, kind=BlobKind.MANIFEST)

    async def pull(self) -> None:
        for blob in (self.manifest, self.layer):
            await read(self.engine, blob)
        store = self.engine.store
        await until(lambda: None not in (store.size(self.manifest.digest), store.size(self.layer.digest)))
        self.catalogue.name(ELSEWHERE, [self.layer])
        self.catalogue.name(AT, [self.layer, self.manifest])
        await self.catalogue_written()

    async def catalogue_written(self) -> None:
        while await self.catalogue.named(AT, self.manifest.digest) is None:  # noqa: ASYNC110 - it says so nowhere
            await asyncio.sleep(0.02)

    def damage(self, digest: Digest) -> None:
        path = self.engine.store.path(digest)
        content = path.read_bytes()
        path.write_bytes(b"evil" + content[4:])

    def is_right(self, digest: Digest) -> bool:
        path = self.engine.store.path(digest)
        return self.engine.store.size(digest) is not None and Digest.of(path.read_bytes()) == digest


@pytest.fixture
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    period = getattr(request, "param", 0.0)
    origin = MemoryOrigin()
    origin.gate.set()
    async with contextlib.AsyncExitStack() as stack:
        store = Store(tmp_path)
        store.open()
        stack.callback(store.close)
        settings = PeerSettings(host="127.0.0.1", port=0, origin_wait=0.5, cache=CacheSettings(scrub=period))
        engine = Engine(settings, store, origin, None, CollectorRegistry(), Budget())
        catalogue = await stack.enter_async_context(Catalogue(tmp_path / "catalogue.sqlite"))
        await stack.enter_async_context(engine)
        repair = await stack.enter_async_context(Repair(engine.supply, catalogue))
        engine.presence.damaged = repair.begin
        world = World(engine, origin, catalogue, repair)
        await world.pull()
        yield world


async def verified(world: World) -> dict[str, object]:
    async with Verification(world.engine.supply, world.repair) as verification:
        await verification.begin()
        await until(lambda: not verification.progress()["running"])
        return verification.progress()


async def test_a_verification_mends_what_an_image_needs(world: World) -> None:
    world.damage(world.layer.digest)
    world.engine.store.path(world.manifest.digest).unlink()
    progress = await verified(world)
    assert progress["checked"] == progress["blobs"] == 2
    assert sorted(progress["wrong"]) == sorted(progress["mended"])  # type: ignore[call-overload]
    assert len(progress["wrong"]) == 2  # type: ignore[arg-type]
    assert world.is_right(world.layer.digest)
    assert world.is_right(world.manifest.digest)


async def test_what_nobody_needs_or_gives_stays_gone(world: World) -> None:
    lonely = world.origin.put(b"no manifest needs this")
    await read(world.engine, lonely)
    await until(lambda: world.engine.store.size(lonely.digest) is not None)
    del world.origin.contents[world.layer.digest]
    world.damage(lonely.digest)
    world.damage(world.layer.digest)
    progress = await verified(world)
    assert progress["mended"] == []
    assert sorted(progress["wrong"]) == sorted([lonely.digest, world.layer.digest])  # type: ignore[call-overload]


async def scrubbed(world: World) -> None:
    """Damage the layer so that its status does not show it, and wait until it is right again."""
    known = world.engine.store._inventory.verified(world.layer.digest)
    assert known is not None
    world.damage(world.layer.digest)
    known.stamp = type(known.stamp).of(world.engine.store.path(world.layer.digest).stat())
    assert await read(world.engine, world.layer) != LAYER, "by its status the file is the right one"
    await until(lambda: world.is_right(world.layer.digest))


@pytest.mark.parametrize("world", [0.5], indirect=True)
async def test_the_scrub_finds_what_nothing_else_shows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer.upkeep, "_SCRUB_RATE", 1e8)
    await scrubbed(world)
    assert await read(world.engine, world.layer) == LAYER


@pytest.fixture
def sandboxed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox in which threads may not have priorities."""

    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)


@pytest.mark.usefixtures("sandboxed")
@pytest.mark.parametrize("world", [0.5], indirect=True)
async def test_the_scrub_needs_no_priority(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer.upkeep, "_SCRUB_RATE", 1e8)
    await scrubbed(world)


async def test_who_reads_a_damaged_blob_gets_the_right_one(world: World) -> None:
    world.damage(world.layer.digest)
    assert await read(world.engine, world.layer) == LAYER
    await world.repair.settled()
    assert world.is_right(world.layer.digest)
    assert world.origin.sent == 2 * world.layer.size + world.manifest.size, "both have the same download"
