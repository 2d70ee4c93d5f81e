"""`/v2/`: who is let in, and how often that is asked."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import pytest
from aiohttp import web

from peer.origin import OriginDenied, OriginError, OriginNotFound
from proxy.base import _MAX_ENTRIES, _OPEN_SECONDS, _SHORT_SECONDS, BODY, BaseFrontend
from proxy.identity import ANONYMOUS, Identity, basic, client_identity, node_identity
from proxy.responses import Call
from proxy.retry import Unreachable
from shoal.digest import Digest
from shoal.reference import Registry
from supernode.protocol import Resolved

if TYPE_CHECKING:
    from tests.proxy.conftest import MemoryCluster, MemoryOrigin

REGISTRY = Registry("registry.example")
NODE = node_identity("deploy", "x")
FRESHNESS = 60.0
DENIED = OriginDenied("no", ('Basic realm="x"',))


def client(name: str) -> Identity:
    identity = client_identity([basic(name, "x")])
    assert identity is not None
    return identity


ALICE, BOB = client("alice"), client("bob")


class Answers:
    """What a client would get, in place of a connection."""

    def __init__(self) -> None:
        self.given: list[web.StreamResponse] = []

    async def send(self, response: web.StreamResponse) -> bool:
        self.given.append(response)
        return True


class World:
    def __init__(self, origin: MemoryOrigin, cluster: MemoryCluster | None) -> None:
        self.now = 100.0
        self.origin = origin
        self.cluster = cluster
        self.base = BaseFrontend(origin, cluster, FRESHNESS, lambda: self.now)

    async def ask(self, identity: Identity = ANONYMOUS) -> int:
        """The status of the answer; raises `OriginError`."""
        answers = Answers()
        await self.base.answer(cast("Call", answers), REGISTRY, identity)
        (response,) = answers.given
        return response.status

    @property
    def questions(self) -> int:
        return len(self.origin.checked)


@pytest.fixture
def world(memory_origin: MemoryOrigin, memory_cluster: MemoryCluster) -> World:
    return World(memory_origin, memory_cluster)


@pytest.mark.parametrize(
    ("identity", "seconds"), [(ANONYMOUS, _OPEN_SECONDS), (NODE, _OPEN_SECONDS), (ALICE, FRESHNESS)]
)
async def test_a_yes_is_remembered_for_its_time(world: World, identity: Identity, seconds: float) -> None:
    for at, questions in ((0, 1), (seconds - 1, 1), (seconds, 2)):
        world.now = 100.0 + at
        assert await world.ask(identity) == 200
        assert world.questions == questions


@pytest.mark.parametrize(("identity", "seconds"), [(ANONYMOUS, FRESHNESS), (ALICE, _SHORT_SECONDS)])
async def test_a_no_is_passed_on_with_its_challenge_for_a_time(
    world: World, identity: Identity, seconds: float
) -> None:
    world.origin.error = DENIED
    for at, questions in ((0, 1), (seconds - 1, 1), (seconds, 2)):
        world.now = 100.0 + at
        with pytest.raises(OriginDenied) as caught:
            await world.ask(identity)
        assert caught.value.challenges == DENIED.challenges
        assert world.questions == questions


async def test_a_no_that_is_given_again_holds_no_requests(world: World) -> None:
    world.origin.error = DENIED
    lengths = set()
    for _ in range(20):
        with pytest.raises(OriginDenied) as caught:
            await world.ask(ALICE)
        lengths.add(len(traceback.extract_tb(caught.value.__traceback__)))
    assert world.questions == 1
    assert len(lengths) <= 2


async def test_one_clients_yes_is_nobody_elses(world: World) -> None:
    assert await world.ask(ALICE) == 200
    world.origin.error = DENIED
    assert await world.ask(ALICE) == 200
    for identity in (BOB, ANONYMOUS, NODE):
        with pytest.raises(OriginDenied):
            await world.ask(identity)


ERRORS: list[Callable[[], OriginError]] = [lambda: Unreachable("down"), lambda: OriginNotFound("no API there")]


@pytest.mark.parametrize("error", ERRORS)
async def test_a_registry_that_cannot_judge_lets_nobody_in_by_a_password(
    world: World, error: Callable[[], OriginError]
) -> None:
    world.origin.error = error()
    for questions in (1, 2):
        with pytest.raises(OriginError):
            await world.ask(ALICE)
        assert world.questions == questions


@pytest.mark.parametrize("error", ERRORS)
async def test_who_says_nothing_gets_at_what_is_cached_though_the_registry_is_gone(
    world: World, error: Callable[[], OriginError]
) -> None:
    world.origin.error = error()
    assert [await world.ask() for _ in range(3)] == [200, 200, 200]
    assert world.questions == 1
    world.now += _SHORT_SECONDS
    world.origin.error = DENIED
    with pytest.raises(OriginDenied):
        await world.ask()


async def test_many_who_ask_at_once_are_one_question(world: World) -> None:
    assert await asyncio.gather(*(world.ask(ALICE) for _ in range(10))) == [200] * 10
    assert world.questions == 1


async def test_one_node_asks_for_the_cluster_and_tells_it(world: World, memory_cluster: MemoryCluster) -> None:
    await world.ask()
    (found,) = memory_cluster.published
    assert found is not None
    assert not isinstance(found, str)
    assert (found.digest, found.size) == (Digest.of(BODY), len(BODY))


async def test_what_the_cluster_knows_is_not_asked_of_the_registry(world: World, memory_cluster: MemoryCluster) -> None:
    memory_cluster.answer = Resolved(1, "fresh", Digest.of(BODY), len(BODY))
    assert await world.ask() == 200
    assert (world.questions, memory_cluster.published) == (0, [])


async def test_a_no_is_told_to_the_cluster_as_no_answer(world: World, memory_cluster: MemoryCluster) -> None:
    world.origin.error = DENIED
    with pytest.raises(OriginDenied):
        await world.ask()
    assert memory_cluster.published == [None]


async def test_a_client_is_no_business_of_the_cluster(world: World, memory_cluster: MemoryCluster) -> None:
    memory_cluster.answer = Resolved(1, "fresh", Digest.of(BODY), len(BODY))
    world.origin.error = DENIED
    with pytest.raises(OriginDenied):
        await world.ask(ALICE)
    assert memory_cluster.published == []


async def test_without_a_cluster_the_registry_is_asked(memory_origin: MemoryOrigin) -> None:
    world = World(memory_origin, None)
    assert await world.ask() == 200
    assert world.questions == 1


async def test_what_is_remembered_is_bounded(world: World) -> None:
    for number in range(_MAX_ENTRIES + 10):
        await world.ask(Identity(f"client:{number}", "Bearer x"))
    assert len(world.base._verdicts) == _MAX_ENTRIES
    await world.base.close()
