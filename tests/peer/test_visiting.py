"""Peers that have the supernode send others to see whether they are reached, with real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry

from peer import wire
from peer.neighbours import Neighbours
from peer.tasks import Tasks
from peer.visiting import Visiting
from shoal.cluster import ClusterSettings
from shoal.membership import Membership
from supernode import protocol
from supernode.client import ControlClient
from supernode.protocol import Call, Outcome, PeerId
from supernode.server import SupernodeServer
from supernode.settings import SupernodeSettings

SECRET = ClusterSettings(secret="a secret of this test")
OTHER_SECRET = ClusterSettings(secret="a secret of that test")
A, B = PeerId(32 * "a"), PeerId(32 * "b")


@dataclass
class Member:
    """A peer at its supernode, and its port for others."""

    peer: PeerId
    port: int

    def __post_init__(self) -> None:
        self.joined = asyncio.Event()

    def hello(self) -> protocol.Hello:
        return protocol.Hello(protocol.VERSION, self.peer, self.port, visits=True)

    def welcomed(self, announce_interval: float) -> None:
        self.joined.set()

    def receive(self, message: protocol.FromSupernode) -> None: ...

    def lost(self) -> None: ...


class Deaf:
    """Hears nothing of neighbours, of which there are none."""

    def arrived(self, peer: PeerId) -> None:
        raise AssertionError("a visit is no neighbour")

    def gone(self, peer: PeerId, reason: str) -> None: ...

    def unreachable(self, peer: PeerId) -> None: ...

    def said(self, peer: PeerId, event: wire.Event) -> None: ...

    def accept(self, peer: PeerId, piece: wire.Piece) -> bytearray | None:
        return None


@dataclass
class World:
    stack: AsyncExitStack
    supernode: SupernodeServer

    async def member(
        self, peer: PeerId, inside: ClusterSettings = SECRET, port: int = 0
    ) -> tuple[Visiting, Neighbours]:
        """A member whose own port knows the members of `inside`, and which says that it is at `port`."""
        neighbours = await self.stack.enter_async_context(Neighbours(peer, "127.0.0.1", 0, Deaf(), Membership(inside)))
        member = Member(peer, port or neighbours.port)
        control = ControlClient(f"http://127.0.0.1:{self.supernode.port}", membership=Membership(SECRET))
        tasks = Tasks()
        visiting = Visiting(control, neighbours, tasks)
        await self.stack.enter_async_context(tasks.running(control.run(member)))
        async with asyncio.timeout(5):
            await member.joined.wait()
        return visiting, neighbours


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        supernode = SupernodeServer(SupernodeSettings(port=0), CollectorRegistry(), Membership(SECRET))
        yield World(stack, await stack.enter_async_context(supernode))


async def outcomes(visiting: Visiting) -> list[str]:
    answer = await visiting.probe()
    assert answer is not None
    return [call.outcome for call in answer.calls]


async def test_a_peer_that_is_reached_hears_so_and_nobody_is_its_neighbour_by_that(world: World) -> None:
    asker, neighbours = await world.member(A)
    _, others = await world.member(B)
    answer = await asker.probe()
    assert answer is not None
    assert (answer.host, answer.port, answer.elsewhere) == ("127.0.0.1", neighbours.port, 0)
    assert answer.calls == [Call(B, "127.0.0.1", others.port, Outcome.REACHED)]
    assert not neighbours.all


async def test_a_peer_that_asks_tries_to_reach_those_who_have_tried(world: World, unused_tcp_port: int) -> None:
    asker, neighbours = await world.member(A)
    await world.member(B, port=unused_tcp_port)
    assert await outcomes(asker) == [Outcome.REACHED]
    ((place, failure),) = neighbours.reachability.failures.items()
    assert (place, failure.outcome) == (("127.0.0.1", unused_tcp_port), Outcome.REFUSED)


async def test_an_answer_counts_for_a_while(world: World) -> None:
    asker, _ = await world.member(A)
    await world.member(B)
    assert await asyncio.gather(*(outcomes(asker) for _ in range(5))) == [[Outcome.REACHED]] * 5


async def test_a_port_where_nobody_listens_is_refused(world: World, unused_tcp_port: int) -> None:
    asker, _ = await world.member(A, port=unused_tcp_port)
    await world.member(B)
    assert await outcomes(asker) == [Outcome.REFUSED]


async def test_who_proves_nothing_at_that_address_is_a_stranger(world: World) -> None:
    asker, _ = await world.member(A, inside=OTHER_SECRET)
    await world.member(B)
    assert await outcomes(asker) == [Outcome.STRANGER]


async def test_without_a_supernode_nobody_can_be_asked() -> None:
    async with Neighbours(A, "127.0.0.1", 0, Deaf(), Membership()) as neighbours:
        assert await Visiting(ControlClient("http://127.0.0.1:1"), neighbours, Tasks()).probe() is None
