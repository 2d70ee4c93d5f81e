from __future__ import annotations

import random
import time

import pytest

from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.messages import BlobRef, InvalidMessage
from shoal.pieces import MAX_BLOB_SIZE, MIB, PIECE_DIGEST_SIZE, PieceLayout, to_bitfield
from supernode import protocol
from supernode.handout import Contact
from supernode.protocol import FromPeer, FromSupernode, PeerId
from supernode.swarm import Swarm
from supernode.tracker import Tracker

DIGEST = Digest.of(b"blob")
SIZE = 4 * MIB
KEY = BlobKey(DIGEST, SIZE)
LAYOUT = PieceLayout.of(SIZE)
A, B, C = (PeerId(32 * letter) for letter in "abc")


class World:
    """A tracker and what it has told each peer."""

    def __init__(self) -> None:
        self.tracker = Tracker(random.Random(1), silence=15.0)
        self.now = 0.0

    def join(self, *peers: PeerId) -> None:
        for peer in peers:
            self.tracker.join(peer, Contact("host", 1000, "zone"), self.now, confirms=True)

    def say(self, peer: PeerId, message: FromPeer) -> list[tuple[PeerId, FromSupernode]]:
        self.tracker.receive(peer, message, self.now)
        return self.told()

    def tick(self, seconds: float) -> list[tuple[PeerId, FromSupernode]]:
        self.now += seconds
        self.tracker.tick(self.now)
        return self.told()

    def told(self) -> list[tuple[PeerId, FromSupernode]]:
        return [(peer, message) for peers, message in self.tracker.take() for peer in peers]

    def open(
        self, peer: PeerId, have: int = 0, coming: int = 0, size: int = SIZE
    ) -> list[tuple[PeerId, FromSupernode]]:
        wanted = protocol.Wanted(DIGEST, size, "docker.io", "library/busybox", bits(have), bits(coming))
        return self.say(peer, protocol.Open([wanted]))

    def announce(self, peer: PeerId, have: int) -> list[tuple[PeerId, FromSupernode]]:
        return self.say(peer, protocol.Announce([protocol.Held(*KEY, bits(have))]))

    @property
    def swarm(self) -> Swarm:
        return self.tracker.swarms[KEY]


def bits(pieces: int) -> bytes:
    return to_bitfield(pieces, LAYOUT.count) if pieces else b""


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
    assert (A, protocol.Handout(*KEY, [])) in told
    ((peer, grant),) = grants(told)
    assert (peer, grant.first, grant.count) == (A, 0, LAYOUT.count)


def test_who_comes_next_is_told_of_the_first_and_of_the_digests_so_far(world: World) -> None:
    ((_, grant),) = grants(world.open(A))
    world.say(A, protocol.Progress(grant.lease, 0, digests(2)))
    told = world.open(B)
    assert (B, protocol.Handout(*KEY, [protocol.Neighbour(A, "host", 1000)])) in told
    assert (B, protocol.TableNews(*KEY, to_bitfield(0b11, LAYOUT.count), digests(2))) in told


def test_news_of_digests_go_to_those_who_want_the_blob(world: World) -> None:
    ((_, grant),) = grants(world.open(A))
    world.open(B)
    world.say(A, protocol.Progress(grant.lease, 0, digests(1)))
    news = protocol.TableNews(*KEY, to_bitfield(1, LAYOUT.count), digests(1))
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
    assert (B, protocol.Handout(*KEY, [protocol.Neighbour(A, "host", 1000)])) in told
    assert grants(told) == [], "what a peer has does not leave the origin again"
    assert (A, protocol.NeedTable(*KEY)) in world.tick(0.02)
    full = to_bitfield(LAYOUT.all, LAYOUT.count)
    world.say(A, protocol.Table(DIGEST, SIZE, full, digests(LAYOUT.count)))
    assert (B, protocol.TableNews(*KEY, full, digests(LAYOUT.count))) in world.tick(0.02)


def test_a_lease_is_reported_on_by_its_holder_only(world: World) -> None:
    ((_, grant),) = grants(world.open(A))
    world.open(B)
    world.say(B, protocol.Progress(grant.lease, 0, digests(4)))
    assert world.tracker.swarms[KEY].table.tabled == 0


def test_a_finished_peer_is_asked_for_nothing_and_kept_as_a_seed(world: World) -> None:
    world.open(A)
    world.say(A, protocol.Announce([protocol.Held(DIGEST, SIZE)]))
    assert world.tracker.leases == 0
    assert (B, protocol.Handout(*KEY, [protocol.Neighbour(A, "host", 1000)])) in world.open(B)


def test_a_swarm_without_members_is_forgotten(world: World) -> None:
    world.open(A)
    world.say(A, protocol.Close([BlobRef(*KEY)]))
    assert world.tracker.swarms == {}
    assert world.tracker.leases == 0


@pytest.mark.parametrize(
    "blob",
    [
        protocol.Wanted("sha256:x", 1, "docker.io", "a/b"),
        protocol.Wanted(DIGEST, 1, "a b", "a/b"),
        protocol.Wanted(DIGEST, 1, "docker.io", "../b"),
        protocol.Wanted(DIGEST, SIZE, "docker.io", "a/b", b"\xff\xff\xff\xff\xff"),
        protocol.Held(DIGEST, SIZE, b"\xff\xff\xff\xff\xff"),
        protocol.Held("sha256:x", SIZE),
    ],
)
def test_what_is_wrong_about_one_blob_is_refused_for_it_and_the_others_are_taken(
    world: World, blob: protocol.Wanted | protocol.Held
) -> None:
    other = Digest.of(b"other")
    message: FromPeer
    if isinstance(blob, protocol.Wanted):
        message = protocol.Open([blob, protocol.Wanted(other, 10, "docker.io", "a/b")])
    else:
        message = protocol.Announce([blob, protocol.Held(other, 10)])
    refused = [each for _, each in world.say(A, message) if isinstance(each, protocol.BlobRefused)]
    assert [(each.digest, each.size) for each in refused] == [(blob.digest, blob.size)]
    assert list(world.tracker.swarms) == [(other, 10)]


def test_a_second_hello_breaks_the_protocol(world: World) -> None:
    with pytest.raises(InvalidMessage):
        world.tracker.receive(A, protocol.Hello(1, A, 1), 0.0)


def test_two_sizes_of_one_digest_are_two_swarms(world: World) -> None:
    world.open(A, size=SIZE - 1)
    told = world.open(B)
    assert (B, protocol.Handout(*KEY, [])) in told
    assert [(peer, grant.size) for peer, grant in grants(told)][-1] == (B, SIZE)
    assert not [message for _, message in told if isinstance(message, protocol.BlobRefused)]


def test_at_the_limit_of_swarms_those_that_are_known_go_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supernode.tracker._MAX_SWARMS_PER_PEER", 1)
    world.open(A)
    other = protocol.Held(Digest.of(b"other"), 10)
    told = world.say(A, protocol.Announce([other, protocol.Held(*KEY, bits(0b1))]))
    assert [message.digest for _, message in told if isinstance(message, protocol.BlobRefused)] == [other.digest]
    assert world.swarm.members[A].have == 0b1


def test_a_table_is_believed_of_who_was_asked_for_pieces_that_it_has(world: World) -> None:
    world.open(A)
    world.announce(B, 0b11)
    full = protocol.Table(*KEY, bits(LAYOUT.all), digests(LAYOUT.count))
    world.say(C, full)
    world.say(B, full)
    assert world.swarm.table.tabled == 0, "nobody was asked"
    world.tick(0.02)
    world.say(B, full)
    assert world.swarm.table.tabled == 0b11


def test_a_table_of_the_largest_blob_is_taken_in_little_time(world: World) -> None:
    blob = BlobKey(DIGEST, MAX_BLOB_SIZE)
    layout = PieceLayout.of(MAX_BLOB_SIZE)
    world.open(A, size=MAX_BLOB_SIZE)
    world.say(B, protocol.Announce([protocol.Held(*blob)]))
    assert (B, protocol.NeedTable(*blob)) in world.tick(0.02)
    table = protocol.Table(*blob, to_bitfield(layout.all, layout.count), bytes(PIECE_DIGEST_SIZE) * layout.count)
    began = time.process_time()
    world.say(B, table)
    told = world.tick(0.02)
    assert time.process_time() - began < 1.0
    (news,) = [message for _, message in told if isinstance(message, protocol.TableNews)]
    assert news.digests == table.digests


def test_a_supernode_that_is_back_waits_until_all_have_told_what_they_have() -> None:
    world = World()
    world.tracker.join(A, Contact("host", 1, ""), world.now, returning=True)
    world.tracker.join(B, Contact("host", 1, ""), world.now, returning=True)
    told = world.open(A, have=0b1, coming=0b10)
    world.now = 1.0
    told += world.open(B, have=0b1100)
    assert grants(told) == []
    granted = {grant.first for _, grant in grants(world.tick(0.6))}
    assert granted
    assert min(granted) == 4


def test_what_was_to_come_and_does_not_is_granted_in_the_end(world: World) -> None:
    world.open(A, coming=LAYOUT.all)
    assert grants(world.tick(1.0)) == []
    assert grants(world.tick(7.0))


def test_a_seed_that_comes_is_told_to_leechers_and_cuts_their_leases(world: World) -> None:
    ((_, grant),) = grants(world.open(A))
    world.say(A, protocol.Progress(grant.lease, 0, digests(1)))
    told = world.say(B, protocol.Announce([protocol.Held(*KEY)]))
    assert (A, protocol.Handout(*KEY, [protocol.Neighbour(B, "host", 1000)])) in told
    assert (A, protocol.Trim(grant.lease, 2)) in told


def test_who_seeks_neighbours_is_told_of_them_again_but_not_all_the_time(world: World) -> None:
    world.open(A)
    world.open(B)
    seek = protocol.Seek([BlobRef(*KEY)])
    handout = (A, protocol.Handout(*KEY, [protocol.Neighbour(B, "host", 1000)]))
    assert handout in world.say(A, seek)
    assert world.say(A, seek) == []
    world.now += 1.5
    assert handout in world.say(A, seek)


def test_who_starves_gets_a_lease_for_what_others_claim(world: World) -> None:
    world.say(B, protocol.Announce([protocol.Held(*KEY)]))
    assert grants(world.open(A)) == []
    assert grants(world.say(A, protocol.Starved(*KEY, bits(0b110)))) == []
    world.now += 1.0
    ((peer, grant),) = grants(world.say(A, protocol.Starved(*KEY, bits(0b110))))
    assert (peer, grant.first, grant.count) == (A, 1, 2)
    world.say(A, protocol.Progress(grant.lease, 1, digests(2)))
    assert world.swarm.starved == {}


def test_a_word_that_a_peer_starves_counts_for_a_while(world: World) -> None:
    world.say(B, protocol.Announce([protocol.Held(*KEY)]))
    world.open(A)
    starved = protocol.Starved(*KEY, bits(0b110))
    assert grants(world.say(A, starved)) == []
    for _ in range(5):
        assert grants(world.tick(0.5)) == []
    assert grants(world.say(A, starved)) == [], "the first word is forgotten"
    assert world.swarm.starved


def test_a_refused_place_gets_no_lease_and_another_one_does(world: World) -> None:
    places = [protocol.Wanted(*KEY, "docker.io", name) for name in ("a/b", "c/d")]
    ((_, grant),) = grants(world.say(A, protocol.Open(places)))
    ((_, again),) = grants(world.say(A, protocol.Release(grant.lease, protocol.ReleaseReason.DENIED)))
    assert {grant.repository, again.repository} == {"a/b", "c/d"}
    told = world.say(A, protocol.Release(again.lease, protocol.ReleaseReason.FAILED))
    assert grants(told) == []
    world.now += 10.0
    world.say(A, protocol.Announce([]))
    world.now += 10.0
    world.say(A, protocol.Announce([]))
    assert [grant.repository for _, grant in grants(world.tick(11.0))] == [again.repository]


def test_those_who_leave_leave_nothing_behind(world: World) -> None:
    for peer in (A, B, C):
        world.open(peer, have=0b1, coming=0b10)
        world.say(peer, protocol.Starved(*KEY, bits(0b100)))
    for peer in (A, B, C):
        world.tracker.leave(peer, world.now)
    world.tick(0.02)
    tracker = world.tracker
    assert (tracker.swarms, tracker.leases, tracker.peers) == ({}, 0, 0)
    assert not (tracker._origins or tracker._testimony.swarms or tracker._expecting)


def test_news_of_a_large_swarm_is_told_more_rarely(world: World) -> None:
    peers = [PeerId(f"{place:032x}") for place in range(2000)]
    world.join(*peers)
    told = [each for peer in peers for each in world.open(peer)]
    (holder, grant), *_ = grants(told)

    def news(seconds: float) -> int:
        return sum(isinstance(message, protocol.TableNews) for _, message in world.tick(seconds))

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


def test_opening_again_and_again_changes_nobodys_number_of_neighbours(world: World) -> None:
    for peer in (A, B, C, C, C, B):
        world.open(peer)
    assert [len(member.neighbours) for member in world.swarm.members.values()] == [2, 2, 2]


def test_pieces_that_a_report_leaves_out_are_granted_again(world: World) -> None:
    ((_, grant),) = grants(world.open(A))
    told = world.say(A, protocol.Progress(grant.lease, 3, digests(1))) + world.tick(0.5)
    assert world.swarm.members[A].have == 0b1000
    assert min(again.first for _, again in grants(told)) == 0


def test_who_has_lost_pieces_is_no_holder_of_the_verified_blob(world: World) -> None:
    world.say(A, protocol.Announce([protocol.Held(*KEY)]))
    assert world.swarm.members[A].complete
    world.announce(A, 0b1)
    assert not world.swarm.members[A].complete


def test_a_seed_that_returns_is_told_to_leechers_again(world: World) -> None:
    seed = protocol.Announce([protocol.Held(*KEY)])
    world.open(A)
    handout = (A, protocol.Handout(*KEY, [protocol.Neighbour(B, "host", 1000)]))
    assert handout in world.say(B, seed)
    assert handout not in world.say(B, seed)
    world.tracker.leave(B, world.now)
    world.join(B)
    assert handout in world.say(B, seed)


def test_the_places_of_a_blob_and_the_origins_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supernode.tracker._MAX_PLACES", 2)
    monkeypatch.setattr("supernode.tracker._MAX_ORIGINS", 2)
    world.open(B)
    places = [("docker.io", "a/b"), ("docker.io", "c/d"), ("docker.io", "e/f"), ("docker.io", "a/b")]
    told = world.say(A, protocol.Open([protocol.Wanted(*KEY, *place) for place in places]))
    assert sum(isinstance(message, protocol.BlobRefused) for _, message in told) == 1
    assert len(world.swarm.members[A].places) == 2
    other = Digest.of(b"other")
    told = world.say(C, protocol.Open([protocol.Wanted(other, 10, f"{name}.test", "a/b") for name in "xyz"]))
    assert sum(isinstance(message, protocol.BlobRefused) for _, message in told) == 2


# --- rate limits ----------------------------------------------------------------------------------------------------


def test_one_peers_429_quiets_all_and_nothing_is_leased_meanwhile(world: World) -> None:
    quiet = protocol.Quiet("docker.io", 10.0)
    assert world.say(A, quiet) == [(B, quiet), (C, quiet)]
    assert grants(world.open(A)) == []
    assert grants(world.tick(9.0)) == []
    late = PeerId(32 * "d")
    world.join(late)
    assert (late, protocol.Quiet("docker.io", 1.0)) in world.told()
    assert len(grants(world.tick(1.1))) == 1


def test_one_members_word_of_a_rate_limit_is_short_and_not_heard_again_soon(world: World) -> None:
    quiet = protocol.Quiet("docker.io", 1e9)
    assert world.say(A, quiet) == [(B, protocol.Quiet("docker.io", 10.0)), (C, protocol.Quiet("docker.io", 10.0))]
    for _ in range(50):
        world.now += 11.0
        for peer in (A, B, C):
            world.say(peer, protocol.Announce([]))
        assert world.say(A, quiet) == []
    assert len(grants(world.open(B))) == 1, "and who asks then meets the limit where there is one"
    told = world.say(B, protocol.Quiet("docker.io", 40.0))
    assert {message.seconds for _, message in told if isinstance(message, protocol.Quiet)} == {40.0}


def test_made_up_rate_limits_of_one_member_keep_no_others_from_being_heard(world: World) -> None:
    told = [world.say(A, protocol.Quiet(f"{number}.test", 60.0)) for number in range(200)]
    assert sum(bool(each) for each in told) == 64
    assert world.say(B, protocol.Quiet("docker.io", 5.0))


def test_one_member_makes_all_others_ask_anew_so_often_and_no_oftener(world: World) -> None:
    refresh = protocol.Refresh("docker.io", "library/busybox")
    assert sum(bool(world.say(A, refresh)) for _ in range(500)) == 64
    assert world.say(B, refresh)
    world.now += 3.0
    assert sum(bool(world.say(A, refresh)) for _ in range(500)) == 3


def test_origins_of_one_member_leave_room_for_those_of_others(world: World) -> None:
    for number in range(100):
        world.say(A, protocol.Open([protocol.Wanted(f"sha256:{number:064x}", SIZE, f"{number}.test", "a/b")]))
    assert len(world.tracker._origins) == 64
    assert not [message for _, message in world.open(B) if isinstance(message, protocol.BlobRefused)]


def test_what_one_member_makes_up_is_bounded_in_bytes_and_given_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supernode.ledger._MOST_EACH", 4 << 20)
    largest = PieceLayout.of(MAX_BLOB_SIZE)
    refused = 0
    for number in range(100):
        blob = BlobKey(Digest.of(b"%d" % number), MAX_BLOB_SIZE)
        told = world.say(A, protocol.Open([protocol.Wanted(*blob, "docker.io", "a/b")]))
        refused += any(isinstance(message, protocol.BlobRefused) for _, message in told)
        for peer, grant in grants(told):
            world.say(peer, protocol.Progress(grant.lease, largest.count - 1, bytes(PIECE_DIGEST_SIZE)))
        assert world.tracker._ledger.taken(A) <= 6 << 20
    assert refused > 60
    assert not [message for _, message in world.open(B) if isinstance(message, protocol.BlobRefused)]
    world.tracker.leave(A, world.now)
    world.tracker.leave(B, world.now)
    assert world.tracker._ledger.total == 0


def test_a_refresh_is_told_to_all_others(world: World) -> None:
    refresh = protocol.Refresh("docker.io", "library/busybox")
    assert world.say(A, refresh) == [(B, refresh), (C, refresh)]


# --- who is believed --------------------------------------------------------------------------------------------------

D = PeerId(32 * "d")


def voids(told: list[tuple[PeerId, FromSupernode]]) -> list[tuple[PeerId, bytes]]:
    return [(peer, message.pieces) for peer, message in told if isinstance(message, protocol.Void)]


def lied(count: int) -> bytes:
    return bytes([0xEE]) * PIECE_DIGEST_SIZE * count


def test_one_members_word_that_a_blob_is_wrong_costs_nobody_else_anything(world: World) -> None:
    ((_, grant),) = grants(world.open(A))
    world.open(B)
    world.open(C)
    world.say(A, protocol.Progress(grant.lease, 0, digests(2)))
    for _ in range(5):
        told = world.say(B, protocol.Corrupt(*KEY)) + world.open(B) + world.tick(0.5)
        assert voids(told) == []
        assert not [message for peer, message in told if peer == B and isinstance(message, protocol.TableNews)]
    assert world.swarm.table.tabled == 0b11
    assert world.swarm.members[A].have == 0b11
    world.say(A, protocol.Progress(grant.lease, 2, digests(1)))
    assert {peer for peer, message in world.tick(0.1) if isinstance(message, protocol.TableNews)} == {A, C}


def test_when_a_second_member_says_so_the_blob_begins_again_without_its_reporters_own_pieces(world: World) -> None:
    ((_, grant),) = grants(world.open(A))
    world.open(B)
    world.open(C)
    world.say(A, protocol.Progress(grant.lease, 0, lied(2)))
    world.say(B, protocol.Corrupt(*KEY))
    told = world.say(C, protocol.Corrupt(*KEY))
    assert {peer for peer, _ in voids(told)} == {A, B, C}
    assert world.swarm.table.tabled == 0
    world.announce(A, LAYOUT.all)
    assert world.swarm.members[A].have == 0, "what it says that it has keeps nobody from fetching it"
    world.now += 10.0
    world.tick(0.0)
    assert all(grant.first > 1 for peer, grant in grants(world.told()) if peer == A)


def test_a_liar_is_found_when_a_third_member_fetches_what_two_say_differently(world: World) -> None:
    world.join(D)
    ((_, grant),) = grants(world.open(A))
    for peer in (B, C, D):
        world.open(peer)
    world.say(A, protocol.Progress(grant.lease, 0, lied(2)))
    told = world.say(B, protocol.Corrupt(*KEY))
    relief = [grant for peer, grant in grants(told) if peer == B and grant.first == 0]
    for _ in range(20):
        if relief:
            break
        told = world.tick(0.3)
        for peer in (A, B, C, D):
            told += world.say(peer, protocol.Announce([]))
        for peer, given in grants(told):
            if peer != B:
                told += world.say(peer, protocol.Release(given.lease, "failed"))
        relief = [grant for peer, grant in grants(told) if peer == B and grant.first == 0]
    told = world.say(B, protocol.Progress(relief[0].lease, 0, digests(1)))
    ((third, decides),) = [(peer, grant) for peer, grant in grants(told) if grant.first == 0]
    assert third in (C, D)
    assert decides.count == 1
    told = world.say(third, protocol.Progress(decides.lease, 0, digests(1)))
    assert [message.reason for peer, message in told if peer == A and isinstance(message, protocol.Refused)]
    assert {pieces for _, pieces in voids(told)} == {to_bitfield(0b10, LAYOUT.count)}
    assert [alarm.peer for alarm in world.tracker.take_alarms()] == [A]
    assert world.swarm.table.tabled == 0b1
    with pytest.raises(InvalidMessage):
        world.join(A)
    news = [(peer, message) for peer, message in told if isinstance(message, protocol.TableNews)]
    assert B in [peer for peer, _ in news], "who has called the blob wrong is told digests again"
    world.now += 601.0
    world.join(A)


def test_a_seed_that_is_not_the_reporter_is_asked_when_one_member_calls_a_blob_wrong(world: World) -> None:
    for seed in (B, C):
        world.say(seed, protocol.Announce([protocol.Held(*KEY)]))
    told = world.open(A) + world.tick(0.02)
    (reporter,) = [peer for peer, message in told if isinstance(message, protocol.NeedTable)]
    world.say(reporter, protocol.Table(*KEY, bits(LAYOUT.all), digests(LAYOUT.count)))
    world.tick(5.0)
    (other,) = {B, C} - {reporter}
    assert (other, protocol.NeedTable(*KEY)) in world.say(A, protocol.Corrupt(*KEY))
    world.say(other, protocol.Table(*KEY, bits(LAYOUT.all), digests(LAYOUT.count)))
    assert world.swarm.table.confirmed == LAYOUT.all


def test_a_seed_stays_one_when_the_table_is_void(world: World) -> None:
    world.say(C, protocol.Announce([protocol.Held(*KEY)]))
    world.open(A)
    world.open(B)
    world.tick(0.02)
    world.say(C, protocol.Table(*KEY, bits(LAYOUT.all), digests(LAYOUT.count)))
    world.say(C, protocol.Corrupt(*KEY))
    world.say(A, protocol.Corrupt(*KEY))
    told = world.say(B, protocol.Corrupt(*KEY))
    assert {peer for peer, _ in voids(told)} == {A, B}
    assert world.swarm.members[C].complete
