from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.pieces import MIB, PieceLayout
from shoal.reference import Location
from supernode.leases import ORIGIN_SLOTS, Granted, Lease, OriginLeases, Revoked, Trimming
from supernode.protocol import PeerId
from supernode.swarm import Swarm

AT = Location.parse("docker.io", "library/busybox")


def swarm_of(size: int, name: bytes = b"blob") -> Swarm:
    return Swarm(BlobKey(Digest.of(name), size), PieceLayout.of(size))


def join(leases: OriginLeases, swarm: Swarm, name: str) -> PeerId:
    peer = PeerId(name)
    member = swarm.join(peer)
    member.places[AT] = 0.0
    swarm.leechers[peer] = member
    leases.want(peer, AT, swarm)
    return peer


def granted(leases: OriginLeases, now: float = 0.0) -> list[Lease]:
    return [decision.lease for decision in leases.decide(now) if isinstance(decision, Granted)]


def fetch(leases: OriginLeases, lease: Lease, count: int, now: float) -> None:
    swarm = lease.swarm
    swarm.update(lease.holder, swarm.members[lease.holder].have | ((1 << count) - 1) << lease.next)
    leases.progress(lease.id, lease.holder, lease.next, count, now)


def test_a_lone_peer_holds_one_lease_over_the_whole_blob() -> None:
    leases, swarm = OriginLeases(random.Random(1)), swarm_of(32 * MIB)
    join(leases, swarm, "a")
    (lease,) = granted(leases)
    assert (lease.next, lease.end, lease.lone) == (0, swarm.layout.count, True)


def test_when_others_join_what_a_lone_lease_has_not_reached_is_split_off() -> None:
    leases, swarm = OriginLeases(random.Random(1)), swarm_of(32 * MIB)
    join(leases, swarm, "a")
    (lone,) = granted(leases)
    fetch(leases, lone, 10, 1.0)
    for name in "bcdefgh":
        join(leases, swarm, name)
    (asked,) = leases.decide(1.0)
    assert isinstance(asked, Trimming)
    assert (asked.lease, lone.end) == (lone, swarm.layout.count)
    assert lone.next < asked.end < swarm.layout.count
    assert leases.decide(1.0) == []  # nothing is granted twice: its holder may be further than is known
    leases.trimmed(lone.id, lone.holder, asked.end + 3)
    assert lone.end == asked.end + 3
    leases_of_others = granted(leases, 1.0)
    assert min(lease.next for lease in leases_of_others) == lone.end
    holders = [lease.holder for lease in leases_of_others]
    assert len(holders) == ORIGIN_SLOTS - 1
    assert set(holders) <= set("abcdefgh")


def test_a_lone_lease_keeps_what_its_holder_reaches_before_the_cut_does() -> None:
    leases, swarm = OriginLeases(random.Random(1)), swarm_of(128 * MIB)
    join(leases, swarm, "a")
    (lone,) = granted(leases)
    for piece in range(10):
        fetch(leases, lone, 1, 0.02 * (piece + 1))
    join(leases, swarm, "b")
    (asked,) = leases.decide(0.2)
    assert isinstance(asked, Trimming)
    assert asked.end - lone.next == 25


@pytest.mark.parametrize(("end", "kept"), [(0, 0), (2, 0), (3, 1), (128, 126), (1 << 17, 126)])
def test_a_holder_ends_its_lease_where_it_says_and_never_later_than_it_did(end: int, kept: int) -> None:
    leases, swarm = OriginLeases(random.Random(1)), swarm_of(32 * MIB)
    join(leases, swarm, "a")
    (lone,) = granted(leases)
    fetch(leases, lone, 2, 1.0)
    leases.trimmed(lone.id, PeerId("b"), 5)
    assert lone.end == 128
    leases.trimmed(lone.id, lone.holder, end)
    assert swarm.leased.bit_count() == kept
    assert (lone.id in leases.leases) == bool(kept)


def test_an_origin_has_so_many_slots_over_all_its_blobs() -> None:
    leases = OriginLeases(random.Random(1))
    for name in (b"1", b"2", b"3"):
        swarm = swarm_of(32 * MIB, name)
        for peer in "abcdefgh":
            join(leases, swarm, peer)
    assert len(granted(leases)) == ORIGIN_SLOTS
    assert granted(leases) == []


def test_the_first_peer_does_not_get_all_leases_before_the_others_have_come() -> None:
    leases = OriginLeases(random.Random(1))
    swarms = [swarm_of(20 * MIB, name) for name in (b"1", b"2", b"3", b"4")]
    join(leases, swarm_of(1000, b"manifest"), "late")  # it reads the manifest still, and wants no layer yet
    granted(leases)
    for swarm in swarms:
        join(leases, swarm, "first")
    assert [lease.holder for lease in granted(leases)] == ["first"]
    for swarm in swarms:
        join(leases, swarm, "second")
    assert [lease.holder for lease in granted(leases, 0.1)] == ["second"]
    assert len(leases.leases) == 3
    assert sorted(lease.holder for lease in granted(leases, 0.4)) == ["first", "second"]


def test_of_the_leases_of_a_lone_peer_one_is_over_all_that_is_left() -> None:
    leases = OriginLeases(random.Random(1))
    for name in (b"1", b"2", b"3", b"4"):
        join(leases, swarm_of(20 * MIB, name), "first")
    for now in (0.0, 0.3, 0.6, 0.9):
        assert len(granted(leases, now)) == 1
    sizes = [lease.swarm.layout.bytes_of(lease.rest) * 2 // MIB for lease in leases.leases.values()]
    assert sorted(sizes) == [1, 1, 1, 40]


def test_small_blobs_are_fetched_together_from_the_start() -> None:
    leases = OriginLeases(random.Random(1))
    for place in range(ORIGIN_SLOTS):
        join(leases, swarm_of(MIB // 2, b"%d" % place), "first")
    assert len(granted(leases)) == ORIGIN_SLOTS


def test_a_lease_without_progress_is_revoked_and_its_pieces_go_to_others() -> None:
    leases, swarm = OriginLeases(random.Random(1)), swarm_of(8 * MIB)
    for peer in "ab":
        join(leases, swarm, peer)
    first = granted(leases)
    decisions = leases.decide(100.0)
    assert {decision.lease.id for decision in decisions if isinstance(decision, Revoked)} == {each.id for each in first}
    assert next(decision.lease.next for decision in decisions if isinstance(decision, Granted)) == 0


def stirred(leases: OriginLeases, lease: Lease, until: float) -> float:
    """Its holder says each second that bytes come, and no piece does: the seconds until it is revoked."""
    now = 0.0
    while now < until:
        now += 1.0
        leases.stir(lease.id, lease.holder, now)
        if any(isinstance(decision, Revoked) and decision.lease is lease for decision in leases.decide(now)):
            return now
    return until


def test_a_lone_lease_whose_piece_comes_slowly_goes_on() -> None:
    leases, swarm = OriginLeases(random.Random(1)), swarm_of(2048 * MIB)
    join(leases, swarm, "a")
    (lease,) = granted(leases)
    assert stirred(leases, lease, 200.0) == 200.0
    fetch(leases, lease, 1, 200.0)
    assert lease.id in leases.leases
    assert any(isinstance(decision, Revoked) for decision in leases.decide(2000.0))  # it says nothing any more


def test_who_only_says_that_a_piece_comes_holds_up_others_for_a_while_at_most() -> None:
    leases, swarm = OriginLeases(random.Random(1)), swarm_of(2048 * MIB)
    for name in "ab":
        join(leases, swarm, name)
    lease = granted(leases)[0]
    other = PeerId("b" if lease.holder == "a" else "a")
    leases.stir(lease.id, other, 3.0)
    assert lease.stirred_at < 0  # it is the holder's word that counts
    assert 29.0 < stirred(leases, lease, 200.0) <= 31.0


def test_a_peer_that_leaves_gives_its_leases_up() -> None:
    leases, swarm = OriginLeases(random.Random(1)), swarm_of(8 * MIB)
    a, b = join(leases, swarm, "a"), join(leases, swarm, "b")
    before = granted(leases)
    leases.unwant(a, swarm)
    for lease in leases.held_by(a, swarm):
        leases.release(lease.id, a)
    swarm.remove(a)
    assert all(lease.holder == b for lease in granted(leases))
    assert {lease.holder for lease in leases.leases.values()} == {b}
    assert len(before) > 0


def test_an_origin_without_ranges_is_read_by_one_lease_at_a_time_from_the_start() -> None:
    leases, swarm = OriginLeases(random.Random(1)), swarm_of(32 * MIB)
    leases.ranges = False
    for peer in "abc":
        join(leases, swarm, peer)
    (lease,) = granted(leases)
    assert (lease.next, lease.end) == (0, swarm.layout.count)


def test_what_a_peer_reported_before_its_table_was_voided_is_leased_to_others() -> None:
    leases, swarm = OriginLeases(random.Random(1)), swarm_of(1 * MIB)
    first, second = join(leases, swarm, "a"), join(leases, swarm, "b")
    swarm.table.report(first, 0b0011, [0, 1], bytes(32), firm=True)
    swarm.table.void(0.0)
    granted(leases, 10.0)
    assert not any(lease.rest & 0b11 for lease in leases.leases.values() if lease.holder == first)
    assert swarm.free_for(second) == swarm.free


def test_a_peer_that_calls_a_blob_wrong_alone_fetches_it_after_all_others_have_theirs() -> None:
    leases, swarm = OriginLeases(random.Random(1), slots=1), swarm_of(8 * MIB)
    for peer in "ab":
        join(leases, swarm, peer)
    swarm.set_apart(PeerId("a"))
    (lease,) = granted(leases, 10.0)
    assert lease.holder == "b"


def test_a_member_whose_claim_nobody_gets_anything_of_is_doubted_and_gets_no_lease() -> None:
    leases, swarm = OriginLeases(random.Random(1)), swarm_of(1 * MIB)
    liar, *others = [join(leases, swarm, peer) for peer in "abc"]
    swarm.update(liar, swarm.all)
    for peer, now in ((others[0], 1.0), (others[1], 1.5), (others[0], 2.0)):
        assert swarm.members[liar].have == swarm.all
        swarm.starve(peer, 0b1, now + 2.0)
        swarm.doubt(peer, now)
    assert (swarm.members[liar].have, swarm.free) == (0, swarm.all)
    assert swarm.credit(liar, swarm.all, 3.0, complete=True) == 0
    assert {lease.holder for lease in granted(leases, 3.0)} <= set(others)


def test_one_members_hunger_casts_doubt_on_nobody_where_there_are_others() -> None:
    leases, swarm = OriginLeases(random.Random(1)), swarm_of(1 * MIB)
    seed, hostile, _ = [join(leases, swarm, peer) for peer in "abc"]
    swarm.update(seed, swarm.all)
    for now in (1.0, 2.0, 3.0):
        swarm.starve(hostile, swarm.all, now + 2.0)
        swarm.doubt(hostile, now)
    assert swarm.members[seed].have == swarm.all


def test_who_claims_pieces_and_takes_them_back_again_and_again_is_doubted() -> None:
    _, swarm = OriginLeases(random.Random(1)), swarm_of(1 * MIB)
    peer = PeerId("a")
    swarm.join(peer)
    for have in (swarm.all, 0) * 4:
        swarm.update(peer, have)
    assert swarm.is_wary
    assert swarm.credit(peer, swarm.all, 1.0, complete=False) == 0


def test_reports_in_a_burst_do_not_make_leases_grow() -> None:
    leases, swarm = OriginLeases(random.Random(1)), swarm_of(200 * MIB)
    for peer in "abcdefgh":
        join(leases, swarm, peer)
    now = 0.0
    for _ in range(40):
        now += 1.0
        for lease in list(leases.leases.values()):
            while lease.next < lease.end:
                fetch(leases, lease, 1, now)  # a megabyte in a second, told in one moment
        longest = max((lease.end - lease.next for lease in granted(leases, now)), default=0)
        assert longest <= 4 * MIB // swarm.layout.piece_size


def test_a_starving_peer_gets_a_lease_over_what_others_claim_to_have() -> None:
    leases, swarm = OriginLeases(random.Random(1)), swarm_of(8 * MIB)
    a, b = join(leases, swarm, "a"), join(leases, swarm, "b")
    swarm.update(b, swarm.layout.all)
    assert granted(leases) == []
    swarm.starve(a, 0b1100, 9.0)
    assert granted(leases) == [], "they may be on their way"
    swarm.starve(a, 0b1100, 9.0)
    (lease,) = granted(leases)
    assert (lease.holder, lease.next, lease.end) == (a, 2, 4)
    assert granted(leases) == [], "one lease for each piece"
    leases.progress(lease.id, a, 2, 2, 0.0)
    assert swarm.starved == {}


def test_what_a_peer_starves_for_goes_before_its_other_blobs() -> None:
    leases, first, second = OriginLeases(random.Random(1)), swarm_of(32 * MIB, b"1"), swarm_of(32 * MIB, b"2")
    for name in "abcdefghi":
        join(leases, first, name)
        join(leases, second, name)
    second.starve(PeerId("a"), 0b1, 9.0)
    found = [lease for lease in granted(leases) if lease.swarm is second]
    assert [(lease.holder, lease.next, lease.end) for lease in found] == [("a", 0, 1)]


def test_a_lease_ends_where_a_seed_has_all_that_follows() -> None:
    leases, swarm = OriginLeases(random.Random(1)), swarm_of(8 * MIB)
    join(leases, swarm, "a")
    (lease,) = granted(leases)
    fetch(leases, lease, 3, 1.0)
    swarm.join(PeerId("seed"))
    assert swarm.update(PeerId("seed"), swarm.layout.all)
    assert leases.shorten(swarm, swarm.leased) == [Trimming(lease, 4)]
    assert leases.shorten(swarm, swarm.leased) == []


def test_a_place_that_failed_a_peer_gets_it_no_lease_and_another_place_does() -> None:
    leases, swarm = OriginLeases(random.Random(1)), swarm_of(8 * MIB)
    peer, other = join(leases, swarm, "a"), Location.parse("docker.io", "library/other")
    swarm.members[peer].places = {AT: 30.0, other: 0.0}
    leases.want(peer, other, swarm)
    (lease,) = granted(leases, 1.0)
    assert lease.location == other


class LeaseMachine(RuleBasedStateMachine):
    """Peers come, go, fetch, stall and give back, in any order."""

    peers: Bundle[PeerId] = Bundle("peers")

    def __init__(self) -> None:
        super().__init__()
        self.leases = OriginLeases(random.Random(0))
        self.swarms = [swarm_of(5 * MIB, b"1"), swarm_of(300_000, b"2"), swarm_of(0, b"3")]
        self.fetched: set[tuple[BlobKey, int]] = set()
        self.now = 0.0
        self.joined = 0

    def decide(self) -> None:
        for decision in self.leases.decide(self.now):
            if isinstance(decision, Granted):
                lease = decision.lease
                pieces = {(lease.swarm.key, piece) for piece in range(lease.next, lease.end)}
                assert not pieces & self.fetched, "a piece that somebody has leaves the origin again"

    @rule(target=peers, wanted=st.sets(st.integers(0, 2), min_size=1))
    def open(self, wanted: set[int]) -> PeerId:
        self.joined += 1
        peer = PeerId(f"peer{self.joined}")
        for place in wanted:
            join(self.leases, self.swarms[place], peer)
        self.decide()
        return peer

    @rule(peer=consumes(peers))
    def leave(self, peer: PeerId) -> None:
        for swarm in self.swarms:
            for lease in self.leases.held_by(peer, swarm):
                self.leases.release(lease.id, peer)
            self.leases.unwant(peer, swarm)
            if peer in swarm.members:
                swarm.remove(peer)
        self.fetched = {
            (swarm.key, piece)
            for swarm in self.swarms
            for piece in range(swarm.layout.count)
            if swarm.held >> piece & 1
        }
        self.decide()

    @rule(choice=st.randoms(), seconds=st.floats(0, 3))
    def fetch_one(self, choice: random.Random, seconds: float) -> None:
        self.now += seconds
        if self.leases.leases:
            lease = choice.choice(list(self.leases.leases.values()))
            self.fetched.add((lease.swarm.key, lease.next))
            fetch(self.leases, lease, 1, self.now)
        self.decide()

    @rule(choice=st.randoms())
    def give_back(self, choice: random.Random) -> None:
        if self.leases.leases:
            lease = choice.choice(list(self.leases.leases.values()))
            self.leases.release(lease.id, lease.holder)
        self.decide()

    @rule(choice=st.randoms(), end=st.integers(0, 30))
    def trim(self, choice: random.Random, end: int) -> None:
        if self.leases.leases:
            lease = choice.choice(list(self.leases.leases.values()))
            self.leases.trimmed(lease.id, lease.holder, end)
        self.decide()

    @rule()
    def wait_long(self) -> None:
        self.now += 60.0
        self.decide()

    @invariant()
    def each_piece_is_leased_once_and_slots_are_kept(self) -> None:
        leased = [
            (lease.swarm.key, piece) for lease in self.leases.leases.values() for piece in range(lease.next, lease.end)
        ]
        assert len(leased) == len(set(leased))
        assert sum(lease.counted for lease in self.leases.leases.values()) <= ORIGIN_SLOTS
        assert len(self.leases.leases) <= ORIGIN_SLOTS + ORIGIN_SLOTS // 2
        for swarm in self.swarms:
            covered = {piece for key, piece in leased if key == swarm.key}
            assert swarm.leased == sum(1 << piece for piece in covered)
            assert swarm.free == swarm.layout.all & ~swarm.leased & ~swarm.held


TestLeases = LeaseMachine.TestCase
TestLeases.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_holder_whose_lease_did_not_move_gets_the_next_one_after_all_others() -> None:
    leases, swarm = OriginLeases(random.Random(1), slots=1), swarm_of(8 * MIB)
    mute, other = join(leases, swarm, "a"), PeerId("b")
    (first,) = granted(leases)
    join(leases, swarm, other)
    leases.decide(5.0)
    assert first.id not in leases.leases
    holders = []
    for step in range(6):
        for lease in list(leases.leases.values()):
            holders.append(lease.holder)
            fetch(leases, lease, lease.end - lease.next, 5.0 + step)
        leases.decide(5.0 + step)
    assert holders
    assert mute not in holders
