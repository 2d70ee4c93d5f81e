from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.pieces import MIB, PieceLayout
from shoal.reference import Location
from supernode.counts import PieceCounts
from supernode.protocol import PeerId
from supernode.swarm import Member, Swarm

A, B, C = PeerId("a"), PeerId("b"), PeerId("c")
HERE = Location.parse("docker.io", "library/made")
pieces = st.integers(0, (1 << 16) - 1)


def swarm_of(*peers: PeerId) -> Swarm:
    swarm = Swarm(BlobKey(Digest.of(b"blob"), 4 * MIB), PieceLayout.of(4 * MIB))
    for peer in peers:
        swarm.leechers[peer] = swarm.join(peer)
    return swarm


@given(st.lists(pieces, max_size=20), st.data())
def test_pieces_are_counted_in_and_out(sets: list[int], data: st.DataObject) -> None:
    counts = PieceCounts()
    for each in sets:
        counts.add(each)
    left = list(sets)
    for each in data.draw(st.permutations(sets)):
        found = [sum(other >> piece & 1 for other in left) for piece in range(16)]
        assert counts.once == sum(1 << piece for piece in range(16) if found[piece] >= 1)
        assert counts.twice == sum(1 << piece for piece in range(16) if found[piece] >= 2)
        left.remove(each)
        counts.remove(each)
    assert counts.once == 0


@given(st.lists(st.tuples(st.sampled_from([A, B, C]), pieces), max_size=20))
def test_what_others_have_is_what_the_other_members_have(told: list[tuple[PeerId, int]]) -> None:
    swarm = swarm_of(A, B, C)
    for peer, have in told:
        swarm.update(peer, have)
    haves = {peer: member.have for peer, member in swarm.members.items()}
    assert swarm.held == haves[A] | haves[B] | haves[C]
    assert swarm.held_by_others(A) == haves[B] | haves[C]
    swarm.remove(B)
    assert swarm.held == haves[A] | haves[C]
    assert swarm.free == swarm.all & ~swarm.held


def test_nobody_starves_for_a_piece_that_it_has() -> None:
    swarm = swarm_of(A)
    swarm.starve(A, 0b11, 9.0)
    swarm.update(A, 0b01)
    assert swarm.starving(A) == 0b10
    swarm.update(A, 0b11)
    assert swarm.starved == {}


def test_a_piece_that_others_have_is_starved_for_when_that_is_said_twice_and_for_a_while() -> None:
    swarm = swarm_of(A, B)
    swarm.update(B, 0b01)
    swarm.starve(A, 0b11, 2.0)
    assert swarm.starving(A) == 0b10
    swarm.starve(A, 0b01, 3.0)
    assert swarm.starving(A) == 0b01
    swarm.expire(3.0)
    assert swarm.starving(A) == 0
    swarm.starve(A, 0b01, 5.0)
    assert swarm.starving(A) == 0


def test_a_place_that_fails_again_and_again_rests_for_longer_each_time() -> None:
    member = Member()
    rests = []
    for _ in range(7):
        member.failed(HERE, 100.0)
        rests.append(member.places[HERE] - 100.0)
    assert rests == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    member.brought(HERE)
    member.failed(HERE, 200.0)
    assert member.places[HERE] == 201.0
