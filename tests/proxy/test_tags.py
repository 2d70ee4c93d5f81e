from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from peer.account import Account, Cause, accounted
from peer.origin import OriginDenied, OriginNotFound, OriginUnavailable
from proxy.catalogue import Catalogue, KnownTag
from proxy.freshness import FreshnessTable, Key, Resolution
from proxy.identity import ANONYMOUS, Identity, node_identity
from proxy.metrics import ProxyMetrics
from proxy.retry import Limited, Unreachable
from proxy.rights import REFUSED_SECONDS
from proxy.settings import ProxySettings
from proxy.tags import REST_SECONDS, TagResolver
from shoal.descriptor import MAX_MANIFEST_SIZE, OCI_MANIFEST, BlobKind, Descriptor
from shoal.digest import Digest
from shoal.reference import Location, Tag
from supernode.protocol import PROVISIONAL_SECONDS, Resolved

if TYPE_CHECKING:
    from tests.proxy.conftest import MemoryCluster, MemoryOrigin

AT = Location.parse("docker.io", "busybox")
TAG = Tag("latest")
OLD = Descriptor(Digest.of(b"old"), 3, OCI_MANIFEST, BlobKind.MANIFEST)
NEW = Descriptor(Digest.of(b"new"), 3, OCI_MANIFEST, BlobKind.MANIFEST)


BLOB = Descriptor(Digest.of(b"layer"), 5)
ALICE = Identity("client:alice", "Basic YTph")
BOB = Identity("client:bob", "Basic Yjpi")


class World:
    """A resolver with its clock, origin and cluster."""

    def __init__(self, origin: MemoryOrigin, cluster: MemoryCluster | None) -> None:
        self.now = 0.0
        self.origin = origin
        self.cluster = cluster
        self.registry = CollectorRegistry()
        self.catalogue = Catalogue(None)
        self.settings = ProxySettings(freshness={"docker.io/library/busybox:quick*": 1.0})
        metrics = ProxyMetrics(self.registry)
        self.tags = TagResolver(self.settings, cluster, origin, self.catalogue, metrics, lambda: self.now)
        origin.known[TAG] = OLD

    async def resolve(self, identity: Identity = ANONYMOUS, tag: Tag = TAG, accept: str = "") -> Resolution:
        return await self.tags.resolve(AT, tag, BlobKind.MANIFEST, identity, accept)

    async def admit(self, identity: Identity = ANONYMOUS, *, named: bool = True) -> Resolution:
        return await self.tags.admit(AT, BLOB, identity, named=named)


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


async def test_a_wait_for_the_supernode_is_accounted_as_that(
    world: World, cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    account, seen = Account(0.0), list[Cause]()

    async def resolve(*_: object) -> Resolved:
        seen.append(account.cause)
        return Resolved(1, "ask")

    monkeypatch.setattr(cluster, "resolve", resolve)
    with accounted(account):
        await world.resolve()
    assert (seen, account.cause) == ([Cause.RESOLVE], Cause.NODE)


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
    assert (await world.tags.resolve(AT, OLD.digest, BlobKind.MANIFEST, ANONYMOUS)).descriptor == OLD


async def test_the_last_known_digest_outlives_the_origin(world: World) -> None:
    await world.resolve()
    world.now = 100
    world.origin.error = OriginUnavailable("down")
    assert await world.resolve() == Resolution(OLD, stale=True)
    assert await world.resolve() == Resolution(OLD, stale=True)
    assert len(world.origin.asked) == 2  # not again for each request
    world.now += REST_SECONDS
    world.origin.error = None
    world.origin.known[TAG] = NEW
    assert await world.resolve() == Resolution(NEW)


async def test_what_the_origin_deletes_is_gone(world: World, cluster: MemoryCluster) -> None:
    await world.resolve()
    world.now = 100
    del world.origin.known[TAG]
    for _ in range(3):
        with pytest.raises(OriginNotFound):
            await world.resolve()
    assert cluster.published == [OLD, "missing"]
    world.now = 200
    world.origin.error = OriginUnavailable("down")
    with pytest.raises(OriginUnavailable):
        await world.resolve()
    assert cluster.published == [OLD, "missing", None]


async def test_a_denial_is_not_answered_with_what_was_known(world: World) -> None:
    await world.resolve()
    world.now = 100
    world.origin.error = OriginDenied("no")
    with pytest.raises(OriginDenied):
        await world.resolve()


async def test_a_denial_is_told_to_the_cluster(world: World, cluster: MemoryCluster) -> None:
    world.origin.error = OriginDenied("no")
    with pytest.raises(OriginDenied):
        await world.resolve()
    assert cluster.published == ["denied"]


async def test_what_the_cluster_says_is_denied_is_not_given_while_the_origin_is_silent(world: World) -> None:
    await world.resolve()
    world.now = 100
    world.origin.error = OriginUnavailable("down")
    assert (await world.resolve()).stale
    world.tags.denied(AT, "somebody else")
    assert (await world.resolve()).stale
    world.tags.denied(AT, ANONYMOUS.key)
    with pytest.raises(OriginUnavailable):
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
    table, now, remembered = FreshnessTable(capacity), 0.0, dict[int, float]()
    for number, passed in steps:
        now += passed
        key = Key(AT, Tag(f"t{number}"), BlobKind.MANIFEST)
        if table.fresh(key, now) is None:
            table.remember(key, OLD, now + 60)
            remembered[number] = now
        assert now - remembered[number] < 60
        assert len(table) <= capacity


def test_a_corrected_size_is_not_fresh_for_longer() -> None:
    table = FreshnessTable()
    key = Key(AT, TAG, BlobKind.MANIFEST)
    table.correct(key, OLD, 7)
    assert len(table) == 0
    table.remember(key, OLD, 60.0)
    table.correct(key, OLD, 7)
    table.correct(key, OLD, 8)  # whoever believed the same comes later
    assert table.fresh(key, 59.0) == Resolution(replace(OLD, size=7))
    assert table.fresh(key, 60.0) is None
    table.correct(key, NEW, 9)
    assert table.last(key) == Resolution(replace(OLD, size=7), stale=True)


async def test_the_time_to_live_follows_patterns(world: World) -> None:
    quick = Tag("quick-1")
    world.origin.known[quick] = OLD
    for now in (0.0, 0.9, 1.0, 2.0):
        world.now = now
        await world.resolve(tag=quick)
        await world.resolve()
    assert [reference for _, reference, _ in world.origin.asked] == [quick, TAG, quick, quick]


async def test_a_digest_is_never_asked_for_again(world: World) -> None:
    await world.resolve()
    world.now = 1e6
    found = await world.tags.resolve(AT, OLD.digest, BlobKind.MANIFEST, ANONYMOUS)
    assert found == Resolution(OLD)
    assert len(world.origin.asked) == 1


async def test_what_a_client_takes_is_part_of_the_question(world: World) -> None:
    world.origin.known[TAG] = OLD
    assert await world.resolve() == Resolution(OLD)
    world.origin.known[TAG] = NEW
    assert await world.resolve(accept="a/b") == Resolution(NEW)
    assert await world.resolve() == Resolution(OLD)
    assert world.origin.identities == [(ANONYMOUS, ""), (ANONYMOUS, "a/b")]


# --- an origin that does not answer ---------------------------------------------------------------------------------


async def test_a_silent_origin_leaves_a_stale_answer_within_3_s(world: World) -> None:
    await world.resolve()
    world.now = 100
    world.origin.answers.clear()
    async with asyncio.timeout(3):
        assert await world.resolve() == Resolution(OLD, stale=True)
    other = Tag("other")
    world.tags._table.remember(Key(AT, other, BlobKind.MANIFEST), NEW, 0.0)
    async with asyncio.timeout(0.5):  # left alone, whatever else is asked of it
        assert await world.resolve(tag=other) == Resolution(NEW, stale=True)
    assert len(world.origin.asked) == 2
    world.origin.answers.set()


async def test_a_silent_origin_without_a_last_answer_is_an_error_within_5_s(world: World) -> None:
    world.origin.answers.clear()
    async with asyncio.timeout(5):
        with pytest.raises(OriginUnavailable, match="no answer"):
            await world.resolve()
    world.origin.answers.set()


async def test_a_limited_origin_is_left_alone_as_long_as_it_said(world: World) -> None:
    await world.resolve()
    world.now = 100
    world.origin.error = Limited("busy", 20.0)
    assert (await world.resolve()).stale
    world.origin.error = None
    world.now = 119
    assert (await world.resolve()).stale
    world.now = 161
    assert await world.resolve() == Resolution(OLD)


async def test_tags_and_open_repositories_outlive_a_restart(memory_origin: MemoryOrigin) -> None:
    world = World(memory_origin, None)
    world.catalogue.tags = [KnownTag(AT, TAG, "", OLD)]
    world.catalogue.grants = [(AT, ANONYMOUS.key)]
    world.tags.restore()
    memory_origin.error = Unreachable("down")
    assert await world.resolve() == Resolution(OLD, stale=True)
    with pytest.raises(OriginUnavailable):
        await world.resolve(ALICE)


# --- whose right it is ----------------------------------------------------------------------------------------------


async def test_each_clients_right_is_asked_for_once_in_its_time(world: World) -> None:
    for _ in range(3):
        for identity in (ANONYMOUS, ALICE, BOB):
            assert await world.resolve(identity) == Resolution(OLD)
    assert [identity for identity, _ in world.origin.identities] == [ANONYMOUS, ALICE, BOB]
    assert world.origin.lent.count((AT, ALICE)) == 3
    world.now = 59
    await world.admit(ALICE)
    world.now = 60
    world.origin.known[BLOB.digest] = BLOB
    await world.admit(ALICE)
    assert [identity for identity, _ in world.origin.identities] == [ANONYMOUS, ALICE, BOB, ALICE]


async def test_one_clients_yes_is_nobody_elses(world: World) -> None:
    challenge = ('Basic realm="x"',)
    world.origin.refused = {ANONYMOUS.key: OriginDenied("sign in", challenge), BOB.key: OriginDenied("not you")}
    await world.resolve(ALICE)
    await world.admit(ALICE)
    for ask in (world.resolve, world.admit):
        with pytest.raises(OriginDenied, match="sign in") as caught:
            await ask(ANONYMOUS)
        assert caught.value.challenges == challenge
        with pytest.raises(OriginDenied, match="not you"):
            await ask(BOB)
    assert {identity.key for _, identity in world.origin.lent} == {ALICE.key}


async def test_a_no_is_asked_for_again_after_a_short_time(world: World) -> None:
    world.origin.refused[ALICE.key] = OriginDenied("not yet")
    for _ in range(5):
        with pytest.raises(OriginDenied):
            await world.resolve(ALICE)
    assert len(world.origin.asked) == 1
    world.now = REFUSED_SECONDS
    world.origin.refused.clear()
    assert await world.resolve(ALICE) == Resolution(OLD)


async def test_a_no_ends_an_earlier_yes(world: World) -> None:
    await world.resolve()
    world.now = 100
    world.origin.refused[ANONYMOUS.key] = OriginDenied("private now")
    for ask in (world.resolve, world.admit):
        with pytest.raises(OriginDenied):
            await ask()


async def test_a_stored_blob_that_no_manifest_names_is_the_origins_to_give(world: World) -> None:
    await world.resolve()
    with pytest.raises(OriginNotFound):
        await world.admit(named=False)
    world.now = 100
    world.origin.known[BLOB.digest] = BLOB
    assert await world.admit(named=False) == Resolution(BLOB, named=True)
    await world.admit(named=False)
    assert [reference for _, reference, _ in world.origin.asked] == [TAG, BLOB.digest, BLOB.digest]


async def test_the_nodes_own_login_that_is_refused_leaves_stale_tags(world: World) -> None:
    node = node_identity("robot", "x")
    await world.resolve(node)
    world.now = 100
    world.origin.refused[node.key] = OriginDenied("wrong password")
    assert await world.resolve(node) == Resolution(OLD, stale=True)
    world.origin.refused[ALICE.key] = OriginDenied("wrong password")
    with pytest.raises(OriginDenied):
        await world.resolve(ALICE)


async def test_what_is_missing_for_a_client_is_not_missing_for_others(world: World, cluster: MemoryCluster) -> None:
    await world.resolve()
    world.now = 100
    world.origin.refused[BOB.key] = OriginNotFound("no such repository")
    with pytest.raises(OriginNotFound):
        await world.resolve(BOB)
    assert await world.resolve() == Resolution(OLD)


async def test_a_client_is_no_business_of_the_cluster(world: World, cluster: MemoryCluster) -> None:
    cluster.answer = Resolved(1, "fresh", NEW.digest, NEW.size, NEW.media_type)
    assert await world.resolve(ALICE) == Resolution(OLD)
    assert cluster.published == []


async def test_what_the_cluster_knows_to_be_missing_is_not_asked_for(world: World, cluster: MemoryCluster) -> None:
    cluster.answer = Resolved(1, "missing")
    for _ in range(2):
        with pytest.raises(OriginNotFound):
            await world.resolve()
    assert world.origin.asked == []


async def test_a_refresh_asks_anew(world: World) -> None:
    await world.resolve()
    world.origin.known[TAG] = NEW
    world.tags.refresh(AT)
    assert world.cluster is not None
    assert world.cluster.refreshed == [AT]
    assert await world.resolve() == Resolution(NEW)
    world.origin.error = Unreachable("down")
    world.tags.refreshed(AT)
    assert await world.resolve() == Resolution(NEW, stale=True)


@pytest.mark.parametrize("state", ["ask", "failed"])
async def test_a_node_that_never_asked_gives_what_the_cluster_knew_last(
    world: World, cluster: MemoryCluster, state: str
) -> None:
    cluster.answer = Resolved(1, state, OLD.digest, OLD.size, OLD.media_type)
    assert (await world.resolve()).stale is False
    other = World(world.origin, cluster)
    fresh = Key(AT, Tag("fresh"), BlobKind.MANIFEST)
    other.tags._table.remember(fresh, NEW, 60.0)
    other.origin.answers.clear()
    for _ in range(2):
        async with asyncio.timeout(3):
            assert await other.resolve() == Resolution(OLD, stale=True)
    assert other.tags._table.fresh(fresh, 1.0) == Resolution(NEW)  # what else is known of the repository stays so
    assert len(other.origin.asked) == 2
    other.origin.answers.set()


async def test_a_blobs_size_is_no_business_of_the_cluster(world: World, cluster: MemoryCluster) -> None:
    blob = Descriptor(OLD.digest, 3)
    world.origin.known[OLD.digest] = blob
    cluster.answer = Resolved(1, "fresh", OLD.digest, 77)
    assert (await world.tags.resolve(AT, OLD.digest, BlobKind.BLOB, ANONYMOUS)).descriptor == blob
    assert cluster.published == []


# --- one other node's word --------------------------------------------------------------------------------------------


def provisional(descriptor: Descriptor) -> Resolved:
    return Resolved(1, "fresh", descriptor.digest, descriptor.size, descriptor.media_type, provisional=True)


async def test_what_one_other_node_says_is_given_at_once_and_not_kept_for_long(
    world: World, cluster: MemoryCluster
) -> None:
    cluster.answer = provisional(NEW)
    assert await world.resolve() == Resolution(NEW)
    world.now = PROVISIONAL_SECONDS - 1
    assert await world.resolve() == Resolution(NEW)
    assert await world.admit() == Resolution(BLOB, named=True)
    assert (world.origin.asked, cluster.published) == ([], [])
    cluster.answer = Resolved(1, "ask")
    world.now = PROVISIONAL_SECONDS
    assert await world.resolve() == Resolution(OLD)


async def test_a_right_that_rests_on_one_other_nodes_word_ends_with_it(world: World, cluster: MemoryCluster) -> None:
    cluster.answer = provisional(NEW)
    await world.resolve()
    world.now = PROVISIONAL_SECONDS
    world.origin.refused[ANONYMOUS.key] = OriginDenied("401")
    with pytest.raises(OriginDenied):
        await world.admit()


async def test_what_a_second_node_has_confirmed_is_kept_as_long_as_any_answer(
    world: World, cluster: MemoryCluster
) -> None:
    cluster.answer = provisional(NEW)
    await world.resolve()
    cluster.answer = Resolved(1, "fresh", NEW.digest, NEW.size, NEW.media_type)
    await world.tags.settle()
    cluster.answer = Resolved(1, "failed")
    world.now = 59
    assert await world.resolve() == Resolution(NEW)
    assert await world.admit() == Resolution(BLOB, named=True)
    assert world.origin.asked == []


async def test_a_node_publishes_what_the_origin_says_to_itself(world: World, cluster: MemoryCluster) -> None:
    cluster.answer = provisional(NEW)
    await world.resolve()
    await world.tags.confirm(AT, TAG, ANONYMOUS.key)
    assert cluster.published == [OLD]
    assert await world.resolve() == Resolution(OLD), "it believes its own answer rather than another node's"
    with pytest.raises(OriginNotFound):
        await world.tags.confirm(AT, Tag("other"), ANONYMOUS.key)
    await world.tags.confirm(AT, TAG, "node:somebody else")
    assert cluster.published == [OLD, "missing", None]
    assert len(world.origin.asked) == 2
