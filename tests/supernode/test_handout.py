from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.pieces import PieceLayout
from supernode.handout import MAX_NEIGHBOURS, Contact, choose_neighbours
from supernode.protocol import PeerId
from supernode.swarm import Swarm

DIGEST = Digest.of(b"manifest")


def swarm(leechers: int, seeds: int, zones: int = 1) -> tuple[Swarm, dict[PeerId, Contact]]:
    swarm = Swarm(BlobKey(DIGEST, 10), PieceLayout.of(10))
    for place in range(leechers + seeds):
        peer = PeerId(f"p{place}")
        member = swarm.join(peer)
        if place < leechers:
            swarm.leechers[peer] = member
    contacts = {peer: Contact("host", 1, f"zone{place % zones}") for place, peer in enumerate(swarm.members)}
    return swarm, contacts


@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 30), st.randoms())
def test_a_handout_holds_others_once_up_to_the_limit(leechers: int, seeds: int, limit: int, rng: random.Random) -> None:
    found, contacts = swarm(leechers, seeds, zones=3)
    chosen = choose_neighbours(PeerId("p0"), found, contacts, rng, limit)
    assert (
        len(chosen)
        == len(set(chosen))
        == (len(found.members) - 1 if len(found.members) <= limit + 1 else -(-limit // 2))
    )
    assert "p0" not in chosen


def test_up_to_the_limit_the_swarm_is_a_full_mesh() -> None:
    found, contacts = swarm(20, 5)
    assert set(choose_neighbours(PeerId("p0"), found, contacts, random.Random(1))) == set(found.members) - {"p0"}


def test_seeds_and_leechers_are_mixed() -> None:
    found, contacts = swarm(500, 500)
    chosen = choose_neighbours(PeerId("p0"), found, contacts, random.Random(1))
    assert 8 <= sum(peer in found.leechers for peer in chosen) <= 17


def test_blobs_of_one_image_have_the_same_neighbours() -> None:
    found, contacts = swarm(500, 0, zones=3)
    rng = random.Random(1)
    first = choose_neighbours(PeerId("p0"), found, contacts, rng)
    assert choose_neighbours(PeerId("p0"), found, contacts, rng, familiar=first) == first
    found.remove(first[0])
    others = choose_neighbours(PeerId("p0"), found, contacts, rng, familiar=first)
    assert set(first[1:]) < set(others)
    assert len(others) == len(first) == MAX_NEIGHBOURS // 2


def test_who_knows_leechers_is_told_of_seeds_as_well() -> None:
    found, contacts = swarm(500, 500)
    familiar = [PeerId(f"p{place}") for place in range(1, 60)]
    chosen = choose_neighbours(PeerId("p0"), found, contacts, random.Random(1), familiar=familiar)
    assert 10 <= sum(peer in found.leechers for peer in chosen) <= 17


def test_half_of_the_neighbours_are_of_the_same_zone() -> None:
    found, contacts = swarm(1000, 0, zones=20)
    chosen = choose_neighbours(PeerId("p0"), found, contacts, random.Random(1))
    near = sum(contacts[peer].zone == "zone0" for peer in chosen)
    assert 12 <= near <= 17


def test_a_zone_that_is_small_is_found() -> None:
    found, contacts = swarm(1000, 0, zones=50)
    chosen = choose_neighbours(PeerId("p0"), found, contacts, random.Random(1))
    assert sum(contacts[peer].zone == "zone0" for peer in chosen) >= 12


def test_who_comes_first_is_not_everybodys_neighbour() -> None:
    everybody, contacts = swarm(400, 0)
    rng = random.Random(1)
    found, _ = swarm(0, 0)
    for peer in everybody.members:
        found.leechers[peer] = found.join(peer)
        found.introduce(peer, choose_neighbours(peer, found, contacts, rng))
    assert max(len(member.neighbours) for member in found.members.values()) <= 1.25 * MAX_NEIGHBOURS


def test_who_leaves_is_nobodys_neighbour_any_more() -> None:
    found, _ = swarm(3, 0)
    found.introduce(PeerId("p0"), [PeerId("p1"), PeerId("p2")])
    found.remove(PeerId("p0"))
    assert [member.neighbours for member in found.members.values()] == [set(), set()]
