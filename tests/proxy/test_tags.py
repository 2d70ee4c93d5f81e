from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from peer.origin import OriginDenied, OriginNotFound, OriginUnavailable
from proxy.metrics import ProxyMetrics
from proxy.tags import STALE_SECONDS, FreshnessTable, Resolution, TagResolver
from shoal.descriptor import MAX_MANIFEST_SIZE, OCI_MANIFEST, BlobKind, Descriptor
from shoal.digest import Digest
from shoal.reference import Location, Tag
from supernode.protocol import Resolved

if TYPE_CHECKING:
    from tests.proxy.conftest import MemoryCluster, MemoryOrigin

AT = Location.parse("docker.io", "busybox")
TAG = Tag("latest")
OLD = Descriptor(Digest.of(b"old"), 3, OCI_MANIFEST, BlobKind.MANIFEST)
NEW = Descriptor(Digest.of(b"new"), 3, OCI_MANIFEST, BlobKind.MANIFEST)


class World:
    """A resolver with its clock, origin and cluster."""

    def __init__(self, origin: MemoryOrigin, cluster: MemoryCluster | None) -> None:
        self.now = 0.0
        self.origin = origin
        self.cluster = cluster
        self.registry = CollectorRegistry()
        self.tags = TagResolver(60, cluster, origin, ProxyMetrics(self.registry), lambda: self.now)
        origin.known[TAG] = OLD

    async def resolve(self) -> Resolution:
        return await self.tags.resolve(AT, TAG, BlobKind.MANIFEST)


@pytest.fixture
def cluster(memory_cluster: MemoryCluster) -> MemoryCluster:
    return memory_cluster


@pytest.fixture
def world(memory_origin: MemoryOrigin, cluster: MemoryCluster) -> World:
    return World(memory_origin, cluster)


async def test_an_answer_is_fresh_for_its_time(world: World) -> None:
    assert await world.resolve() == Resolution(OLD)
    world.origin.known[TAG] = NEW
    world.now = 59
    assert await world.resolve() == Resolution(OLD)
    world.now = 60
    assert await world.resolve() == Resolution(NEW)
    assert len(world.origin.asked) == 2


async def test_many_who_ask_at_once_cost_one_question(world: World) -> None:
    world.origin.answers.clear()
    asking = [asyncio.create_task(world.resolve()) for _ in range(10)]
    await asyncio.sleep(0)
    world.origin.answers.set()
    assert set(await asyncio.gather(*asking)) == {Resolution(OLD)}
    assert len(world.origin.asked) == 1


async def test_what_the_cluster_knows_is_not_asked_of_the_origin(world: World, cluster: MemoryCluster) -> None:
    cluster.answer = Resolved(1, "fresh", NEW.digest, NEW.size, NEW.media_type)
    assert await world.resolve() == Resolution(NEW)
    assert (world.origin.asked, cluster.published) == ([], [])


@pytest.mark.parametrize("answer", [Resolved(1, "ask"), None])
async def test_who_is_to_ask_publishes(world: World, cluster: MemoryCluster, answer: Resolved | None) -> None:
    cluster.answer = answer
    await world.resolve()
    assert cluster.published == [OLD]


async def test_after_a_failure_elsewhere_the_answer_is_kept_to_oneself(world: World, cluster: MemoryCluster) -> None:
    cluster.answer = Resolved(1, "failed")
    assert await world.resolve() == Resolution(OLD)
    assert cluster.published == []


async def test_without_a_supernode_the_origin_is_asked(memory_origin: MemoryOrigin) -> None:
    assert await World(memory_origin, None).resolve() == Resolution(OLD)


@pytest.mark.parametrize(
    ("digest", "size"), [("", 3), ("sha256:xyz", 3), (NEW.digest, 0), (NEW.digest, MAX_MANIFEST_SIZE + 1)]
)
async def test_a_senseless_answer_of_the_cluster_is_not_believed(
    world: World, cluster: MemoryCluster, digest: str, size: int
) -> None:
    cluster.answer = Resolved(1, "fresh", digest, size)
    assert await world.resolve() == Resolution(OLD)


async def test_the_cluster_cannot_exchange_a_digest(world: World, cluster: MemoryCluster) -> None:
    world.origin.known[OLD.digest] = OLD
    cluster.answer = Resolved(1, "fresh", NEW.digest, 3)
    assert (await world.tags.resolve(AT, OLD.digest, BlobKind.MANIFEST)).descriptor == OLD


async def test_the_last_known_digest_outlives_the_origin(world: World) -> None:
    await world.resolve()
    world.now = 100
    world.origin.error = OriginUnavailable("down")
    assert await world.resolve() == Resolution(OLD, stale=True)
    assert await world.resolve() == Resolution(OLD, stale=True)
    assert len(world.origin.asked) == 2  # not again for each request
    world.now += STALE_SECONDS
    world.origin.error = None
    world.origin.known[TAG] = NEW
    assert await world.resolve() == Resolution(NEW)


async def test_what_the_origin_deletes_is_gone(world: World, cluster: MemoryCluster) -> None:
    await world.resolve()
    world.now = 100
    del world.origin.known[TAG]
    with pytest.raises(OriginNotFound):
        await world.resolve()
    world.origin.error = OriginUnavailable("down")
    with pytest.raises(OriginUnavailable):
        await world.resolve()
    assert cluster.published == [OLD, None, None]


async def test_a_denial_is_not_answered_with_what_was_known(world: World) -> None:
    await world.resolve()
    world.now = 100
    world.origin.error = OriginDenied("no")
    with pytest.raises(OriginDenied):
        await world.resolve()


async def test_a_question_given_up_is_told_to_the_cluster(world: World, cluster: MemoryCluster) -> None:
    world.origin.answers.clear()
    asking = asyncio.create_task(world.resolve())
    await world.origin.was_asked.wait()
    await world.tags.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert cluster.published == [None]


async def test_outcomes_are_counted(world: World) -> None:
    await world.resolve()
    await world.resolve()
    counts = {
        outcome: world.registry.get_sample_value("shoal_proxy_tags_total", {"outcome": outcome})
        for outcome in ("origin", "local", "cluster")
    }
    assert counts == {"origin": 1, "local": 1, "cluster": 0}


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1e6)), max_size=60), st.integers(1, 5))
def test_the_table_is_bounded_and_never_fresh_too_long(steps: list[tuple[int, float]], capacity: int) -> None:
    table, now, remembered = FreshnessTable(60, capacity), 0.0, dict[int, float]()
    for number, passed in steps:
        now += passed
        key = (AT, Tag(f"t{number}"), BlobKind.MANIFEST)
        if table.fresh(key, now) is None:
            table.remember(key, OLD, now)
            remembered[number] = now
        assert now - remembered[number] < 60
        assert len(table) <= capacity


def test_the_size_behind_a_digest_ages_too() -> None:
    table = FreshnessTable(60)
    key = (AT, OLD.digest, BlobKind.MANIFEST)
    table.remember(key, OLD, 0.0)
    assert table.fresh(key, 59.0) == Resolution(OLD)
    assert table.fresh(key, 60.0) is None


def test_a_corrected_size_is_not_fresh_for_longer() -> None:
    table = FreshnessTable(60)
    key = (AT, TAG, BlobKind.MANIFEST)
    table.correct(key, OLD, 7)
    assert len(table) == 0
    table.remember(key, OLD, 0.0)
    table.correct(key, OLD, 7)
    table.correct(key, OLD, 8)  # whoever believed the same comes later
    assert table.fresh(key, 59.0) == Resolution(replace(OLD, size=7))
    assert table.fresh(key, 60.0) is None
    table.correct(key, NEW, 9)
    assert table.outlive(key, 60.0) == Resolution(replace(OLD, size=7), stale=True)


async def test_a_blobs_size_is_no_business_of_the_cluster(world: World, cluster: MemoryCluster) -> None:
    blob = Descriptor(OLD.digest, 3)
    world.origin.known[OLD.digest] = blob
    cluster.answer = Resolved(1, "fresh", OLD.digest, 77)
    assert (await world.tags.resolve(AT, OLD.digest, BlobKind.BLOB)).descriptor == blob
    assert cluster.published == []
