from __future__ import annotations

import random

import pytest

from shoal.digest import Digest
from shoal.messages import InvalidMessage
from shoal.pieces import MIB, PIECE_DIGEST_SIZE, PieceLayout, to_bitfield
from supernode import protocol
from supernode.handout import Contact
from supernode.protocol import FromPeer, FromSupernode, PeerId
from supernode.tracker import Tracker

DIGEST = Digest.of(b"blob")
SIZE = 4 * MIB
LAYOUT = PieceLayout.of(SIZE)
A, B, C = (PeerId(32 * letter) for letter in "abc")


class World:
    """A tracker and what it has told each peer."""

    def __init__(self) -> None:
        self.tracker = Tracker(random.Random(1), silence=15.0)
        self.now = 0.0

    def join(self, *peers: PeerId) -> None:
        for peer in peers:
            self.tracker.join(peer, Contact("host", 1000, "zone"), self.now)

    def say(self, peer: PeerId, message: FromPeer) -> list[tuple[PeerId, FromSupernode]]:
        self.tracker.receive(peer, message, self.now)
        return self.told()

    def tick(self, seconds: float) -> list[tuple[PeerId, FromSupernode]]:
        self.now += seconds
        self.tracker.tick(self.now)
        return self.told()

    def told(self) -> list[tuple[PeerId, FromSupernode]]:
        return [(peer, message) for peers, message in self.tracker.take() for peer in peers]

    def open(self, peer: PeerId, have: int = 0) -> list[tuple[PeerId, FromSupernode]]:
        bitfield = to_bitfield(have, LAYOUT.count) if have else b""
        wanted = protocol.Wanted(DIGEST, SIZE, "docker.io", "library/busybox", bitfield)
        return self.say(peer, protocol.Open([wanted]))


@pytest.fixture
def world() -> World:
    world = World()
    world.join(A, B, C)
    return world


def grants(told: list[tuple[PeerId, FromSupernode]]) -> list[tuple[PeerId, protocol.Grant]]:
    return [(peer, message) for peer, message in told if isinstance(message, protocol.Grant)]


def digests(count: int) -> bytes:
    return b"".join(bytes([place]) * PIECE_DIGEST_SIZE for place in range(count))


def test_who_opens_a_blob_first_gets_an_empty_handout_and_a_lease_over_all_of_it(world: World) -> None:
    told = world.open(A)
    assert (A, protocol.Handout(DIGEST, [])) in told
    ((peer, grant),) = grants(told)
    assert (peer, grant.first, grant.count) == (A, 0, LAYOUT.count)


def test_who_comes_next_is_told_of_the_first_and_of_the_digests_so_far(world: World) -> None:
    ((_, grant),) = grants(world.open(A))
    world.say(A, protocol.Progress(grant.lease, 0, digests(2)))
    told = world.open(B)
    assert (B, protocol.Handout(DIGEST, [protocol.Neighbour(A, "host", 1000)])) in told
    assert (B, protocol.PieceDigests(DIGEST, to_bitfield(0b11, LAYOUT.count), digests(2))) in told


def test_news_of_digests_go_to_those_who_want_the_blob(world: World) -> None:
    ((_, grant),) = grants(world.open(A))
    world.open(B)
    world.say(A, protocol.Progress(grant.lease, 0, digests(1)))
    news = protocol.PieceDigests(DIGEST, to_bitfield(1, LAYOUT.count), digests(1))
    told = world.tick(0.02)
    assert (B, news) in told
    assert not [peer for peer, message in told if message == news and peer == C]


def test_a_peer_that_leaves_frees_its_lease_and_what_only_it_had(world: World) -> None:
    ((_, grant),) = grants(world.open(A))
    world.say(A, protocol.Progress(grant.lease, 0, digests(3)))
    world.open(B)
    world.tracker.leave(A, world.now)
    firsts = [message.first for peer, message in grants(world.told()) if peer == B]
    assert 0 in firsts


def test_a_silent_peer_is_forgotten(world: World) -> None:
    world.open(A)
    world.now = 14.0
    world.say(B, protocol.Announce([]))
    told = world.tick(2.0)
    assert (A, protocol.Refused("silent for too long")) in told
    assert world.tracker.peers == 1
    with pytest.raises(InvalidMessage, match="not registered"):
        world.tracker.receive(A, protocol.Announce([]), world.now)


def test_after_a_restart_the_state_is_built_from_what_peers_say(world: World) -> None:
    world.say(A, protocol.Announce([protocol.Held(DIGEST, SIZE)]))
    told = world.open(B)
    assert (B, protocol.Handout(DIGEST, [protocol.Neighbour(A, "host", 1000)])) in told
    assert grants(told) == [], "what a peer has does not leave the origin again"
    assert (A, protocol.NeedTable(DIGEST)) in world.tick(0.02)
    full = to_bitfield(LAYOUT.all, LAYOUT.count)
    world.say(A, protocol.Table(DIGEST, SIZE, full, digests(LAYOUT.count)))
    assert (B, protocol.PieceDigests(DIGEST, full, digests(LAYOUT.count))) in world.tick(0.02)


def test_a_blob_that_turns_out_wrong_is_void_and_its_reporter_gets_no_lease(world: World) -> None:
    ((_, grant),) = grants(world.open(A))
    world.open(B)
    world.say(A, protocol.Progress(grant.lease, 0, digests(1)))
    told = world.say(B, protocol.Corrupt(DIGEST))
    assert {peer for peer, message in told if message == protocol.Void(DIGEST)} == {A, B}
    assert {peer for peer, _ in grants(told)} == {B}


def test_a_lease_is_reported_on_by_its_holder_only(world: World) -> None:
    ((_, grant),) = grants(world.open(A))
    world.open(B)
    world.say(B, protocol.Progress(grant.lease, 0, digests(4)))
    assert world.tracker.swarms[DIGEST].known == 0


def test_a_finished_peer_is_asked_for_nothing_and_kept_as_a_seed(world: World) -> None:
    world.open(A)
    world.say(A, protocol.Announce([protocol.Held(DIGEST, SIZE)]))
    assert world.tracker.leases == 0
    assert (B, protocol.Handout(DIGEST, [protocol.Neighbour(A, "host", 1000)])) in world.open(B)


def test_a_swarm_without_members_is_forgotten(world: World) -> None:
    world.open(A)
    world.say(A, protocol.Close([DIGEST]))
    assert world.tracker.swarms == {}
    assert world.tracker.leases == 0


@pytest.mark.parametrize(
    "message",
    [
        protocol.Open([protocol.Wanted("sha256:x", 1, "docker.io", "a/b")]),
        protocol.Open([protocol.Wanted(DIGEST, 1 << 41, "docker.io", "a/b")]),
        protocol.Open([protocol.Wanted(DIGEST, 1, "a b", "a/b")]),
        protocol.Open([protocol.Wanted(DIGEST, 1, "docker.io", "../b")]),
        protocol.Announce([protocol.Held(DIGEST, SIZE, b"\xff\xff\xff\xff\xff")]),
        protocol.Hello(1, A, 1),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_that_makes_no_sense_is_refused(world: World, message: FromPeer) -> None:
    with pytest.raises(InvalidMessage):
        world.tracker.receive(A, message, 0.0)


def test_a_blob_has_one_size(world: World) -> None:
    world.open(A)
    with pytest.raises(InvalidMessage, match="not of"):
        world.say(B, protocol.Announce([protocol.Held(DIGEST, SIZE + 1)]))


def test_news_of_a_large_swarm_is_told_more_rarely(world: World) -> None:
    peers = [PeerId(f"{place:032x}") for place in range(2000)]
    world.join(*peers)
    told = [each for peer in peers for each in world.open(peer)]
    (holder, grant), *_ = grants(told)

    def news(seconds: float) -> int:
        return sum(isinstance(message, protocol.PieceDigests) for _, message in world.tick(seconds))

    world.say(holder, protocol.Progress(grant.lease, grant.first, bytes(PIECE_DIGEST_SIZE)))
    assert news(0.02) == len(peers)
    world.say(holder, protocol.Progress(grant.lease, grant.first + 1, bytes(PIECE_DIGEST_SIZE)))
    assert news(0.02) == 0
    assert news(0.1) == len(peers)


def test_a_blob_that_is_opened_under_two_registries_leaves_nothing_behind(world: World) -> None:
    for registry in ("docker.io", "ghcr.io"):
        world.say(A, protocol.Open([protocol.Wanted(DIGEST, SIZE, registry, "library/busybox")]))
    world.tracker.leave(A, world.now)
    world.tick(0.1)
    assert grants(world.open(B))
    assert world.tracker.leases <= 1


def test_what_is_refused_leaves_no_swarm_behind(world: World) -> None:
    with pytest.raises(InvalidMessage):
        world.say(A, protocol.Announce([protocol.Held(DIGEST, 999, b"\x00\x00")]))
    assert not world.tracker.swarms
    world.open(B)


def test_opening_again_and_again_changes_nobodys_number_of_neighbours(world: World) -> None:
    for peer in (A, B, C, C, C, B):
        world.open(peer)
    assert [member.neighbours for member in world.tracker.swarms[DIGEST].members.values()] == [2, 2, 2]
