"""Leases over what no client waits for come behind those over what one waits for."""

from __future__ import annotations

import random

from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.pieces import MIB, PieceLayout
from shoal.reference import Location
from supernode.leases import ORIGIN_SLOTS, Granted, Lease, OriginLeases, Trimming
from supernode.protocol import PeerId
from supernode.swarm import Swarm

AT = Location.parse("docker.io", "library/busybox")


def swarm_of(name: bytes, size: int = 64 * MIB) -> Swarm:
    return Swarm(BlobKey(Digest.of(name), size), PieceLayout.of(size))


def want(leases: OriginLeases, swarm: Swarm, name: str, *, preheats: bool = False) -> PeerId:
    peer = PeerId(name)
    swarm.join(peer).places[AT] = 0.0
    swarm.want(peer, preheats=preheats)
    leases.want(peer, AT, swarm)
    return peer


def granted(leases: OriginLeases, now: float) -> list[Lease]:
    return [decision.lease for decision in leases.decide(now) if isinstance(decision, Granted)]


def test_all_slots_are_a_pulls_though_preheats_hold_as_many() -> None:
    leases, preheated, pulled = OriginLeases(random.Random(1)), swarm_of(b"preheated"), swarm_of(b"pulled")
    for name in "abcdefghij":
        want(leases, preheated, name, preheats=True)
    assert len(granted(leases, 0.0)) == ORIGIN_SLOTS
    for name in "klmnopqrstuv":
        want(leases, pulled, name)
    assert [lease.swarm for lease in granted(leases, 1.0)] == ORIGIN_SLOTS * [pulled]


def test_beside_a_pull_a_preheat_is_granted_a_little_now_and_then() -> None:
    leases, preheated, pulled = OriginLeases(random.Random(1)), swarm_of(b"preheated"), swarm_of(b"pulled")
    want(leases, pulled, "a")
    want(leases, preheated, "b", preheats=True)
    first = granted(leases, 0.0)
    assert [lease.swarm for lease in first] == [pulled, preheated]
    leases.release(first[1].id, first[1].holder)
    for second in range(1, 5):  # the pull moves
        assert not [lease for lease in granted(leases, float(second)) if lease.swarm is preheated]
        for lease in list(leases.leases.values()):
            leases.progress(lease.id, lease.holder, lease.next, 1, float(second))
    assert [lease.swarm for lease in granted(leases, 5.1) if lease.swarm is preheated] == [preheated]


def test_the_lease_of_a_lone_preheat_ends_when_a_client_comes() -> None:
    leases, preheated, pulled = OriginLeases(random.Random(1)), swarm_of(b"preheated"), swarm_of(b"pulled")
    want(leases, preheated, "a", preheats=True)
    (lone,) = granted(leases, 0.0)
    assert lone.end == preheated.layout.count
    want(leases, pulled, "a")
    trimmed = [each for each in leases.decide(1.0) if isinstance(each, Trimming)]
    assert [(each.lease, each.end) for each in trimmed] == [(lone, lone.next + 1)]


def test_a_blob_that_is_pulled_anywhere_is_no_preheat() -> None:
    swarm = swarm_of(b"blob")
    leases = OriginLeases(random.Random(1))
    want(leases, swarm, "a", preheats=True)
    assert not swarm.is_pulled
    want(leases, swarm, "b")
    assert swarm.is_pulled
    swarm.sate(PeerId("b"))
    assert not swarm.is_pulled
    want(leases, swarm, "a")
    assert swarm.is_pulled
    swarm.sate(PeerId("a"))
    assert (swarm.is_pulled, swarm.preheaters) == (False, 0)
