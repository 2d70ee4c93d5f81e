from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.pieces import PieceLayout
from supernode.handout import MAX_NEIGHBOURS, Contact, choose_neighbours
from supernode.protocol import PeerId, Publish, Resolve, Resolved
from supernode.swarm import Swarm
from supernode.tags import TagTable

A, B, C = PeerId("a"), PeerId("b"), PeerId("c")
TAG = ("docker.io", "library/busybox", "latest", "manifest")
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


def ask(query: int) -> Resolve:
    return Resolve(query, *TAG)


def say(digest: str = DIGEST) -> Publish:
    return Publish(*TAG, digest, 10, "x/y")


def test_one_peer_asks_the_origin_and_the_others_wait_for_its_word() -> None:
    table = TagTable(60.0)
    assert table.resolve(A, ask(1), 0.0) == [(A, Resolved(1, "ask"))]
    assert table.resolve(B, ask(2), 0.1) == []
    assert table.publish(A, say(), 0.2) == [(B, Resolved(2, "fresh", DIGEST, 10, "x/y"))]
    assert table.resolve(C, ask(3), 59.0) == [(C, Resolved(3, "fresh", DIGEST, 10, "x/y"))]


def test_after_the_freshness_the_origin_is_asked_again() -> None:
    table = TagTable(60.0)
    table.resolve(A, ask(1), 0.0)
    table.publish(A, say(), 0.0)
    assert table.resolve(B, ask(2), 60.0) == [(B, Resolved(2, "ask", DIGEST, 10, "x/y"))]
    assert table.resolve(C, ask(3), 60.0) == []
    assert table.publish(B, say(""), 60.1) == [(C, Resolved(3, "failed", DIGEST, 10, "x/y"))]


def test_what_is_missing_is_told_for_as_long_as_what_is_there() -> None:
    table = TagTable(60.0)
    table.resolve(A, ask(1), 0.0)
    table.resolve(B, ask(2), 0.0)
    assert table.publish(A, Publish(*TAG, missing=True), 0.0) == [(B, Resolved(2, "missing"))]
    assert table.resolve(C, ask(3), 59.0) == [(C, Resolved(3, "missing"))]
    assert table.resolve(C, ask(4), 60.0) == [(C, Resolved(4, "ask"))]


def test_what_one_identity_is_told_is_not_told_to_others() -> None:
    table = TagTable(60.0)
    table.resolve(A, ask(1), 0.0)
    table.publish(A, say(), 0.0)
    other = Resolve(2, *TAG, "node:robot")
    assert table.resolve(B, other, 1.0) == [(B, Resolved(2, "ask"))]


def test_who_wants_a_younger_answer_asks_the_origin() -> None:
    table = TagTable(60.0)
    table.resolve(A, ask(1), 0.0)
    table.publish(A, say(), 0.0)
    assert table.resolve(B, Resolve(2, *TAG, "", 5.0), 4.9) == [(B, Resolved(2, "fresh", DIGEST, 10, "x/y"))]
    assert table.resolve(B, Resolve(3, *TAG, "", 5.0), 5.0) == [(B, Resolved(3, "ask", DIGEST, 10, "x/y"))]


def test_a_refreshed_repository_is_asked_for_again() -> None:
    table = TagTable(60.0)
    table.resolve(A, ask(1), 0.0)
    table.publish(A, say(), 0.0)
    table.refresh("docker.io", "library/other")
    assert table.resolve(B, ask(2), 1.0) == [(B, Resolved(2, "fresh", DIGEST, 10, "x/y"))]
    table.refresh(TAG[0], TAG[1])
    assert table.resolve(B, ask(3), 1.0) == [(B, Resolved(3, "ask", DIGEST, 10, "x/y"))]


def test_when_the_asker_is_gone_the_next_one_asks() -> None:
    table = TagTable(60.0)
    table.resolve(A, ask(1), 0.0)
    table.resolve(B, ask(2), 0.0)
    table.resolve(C, ask(3), 0.0)
    assert table.leave(A, 0.1) == [(B, Resolved(2, "ask"))]
    assert table.publish(B, say(), 0.2) == [(C, Resolved(3, "fresh", DIGEST, 10, "x/y"))]


def test_who_was_not_told_to_ask_is_not_believed() -> None:
    table = TagTable(60.0)
    table.resolve(A, ask(1), 0.0)
    assert table.publish(B, say(Digest.of(b"forged")), 0.1) == []
    table.publish(A, say(), 0.2)
    assert table.resolve(C, ask(3), 1.0) == [(C, Resolved(3, "fresh", DIGEST, 10, "x/y"))]


def test_an_asker_that_takes_too_long_lets_the_others_ask_for_themselves() -> None:
    table = TagTable(60.0)
    table.resolve(A, ask(1), 0.0)
    table.resolve(B, ask(2), 0.0)
    assert table.expire(1.0) == []
    assert table.expire(10.0) == [(B, Resolved(2, "failed"))]


def test_a_failure_is_told_and_not_remembered() -> None:
    table = TagTable(60.0)
    table.resolve(A, ask(1), 0.0)
    table.resolve(B, ask(2), 0.0)
    assert table.publish(A, say(""), 0.1) == [(B, Resolved(2, "failed"))]
    assert table.resolve(B, ask(3), 0.2) == [(B, Resolved(3, "ask"))]
