"""Messages with arbitrary values into the tracker, among those of honest peers."""

from __future__ import annotations

import contextlib
import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.messages import BlobRef, InvalidMessage
from shoal.pieces import MAX_BLOB_SIZE, MAX_PIECES, MIB, PIECE_DIGEST_SIZE
from supernode import protocol
from supernode.handout import Contact
from supernode.leases import Lease
from supernode.protocol import PeerId
from supernode.tracker import Tracker

PEERS = [PeerId(letter * 32) for letter in "abc"]
digest = st.sampled_from([*[Digest.of(b"1")] * 4, Digest.of(b"2"), "sha256:x"])
size = st.sampled_from([*[4 * MIB] * 4, 0, 1, 4 * MIB + 1, MAX_BLOB_SIZE, 1 << 60])
bitfield = st.one_of(
    st.just(b""), st.binary(min_size=2, max_size=2), st.binary(max_size=3), st.just(bytes(MAX_PIECES // 8))
)
digests = st.integers(0, 40).map(lambda count: bytes(count * PIECE_DIGEST_SIZE)) | st.binary(max_size=40)
number = st.one_of(st.integers(1, 4), st.integers(0, 12), st.just(1 << 53))
piece = st.one_of(st.integers(0, 4), st.integers(0, 40), st.just(MAX_PIECES - 1))
registry = st.sampled_from([*["docker.io"] * 4, "quay.io", "a b"])
repository = st.sampled_from([*["a/b"] * 4, "c/d", "../b"])
wanted = st.builds(protocol.Wanted, digest, size, registry, repository, bitfield, bitfield, st.booleans())
held = st.builds(protocol.Held, digest, size, bitfield, bitfield)
refs = st.lists(st.builds(BlobRef, digest, size), max_size=3)
tag = st.sampled_from(["latest", ""])
reason = st.sampled_from(["failed", "denied", "no-range", "closed", "?"])
messages = st.one_of(
    st.builds(protocol.Open, st.lists(wanted, max_size=4)),
    st.builds(protocol.Announce, st.lists(held, max_size=4)),
    st.builds(protocol.Close, refs),
    st.builds(protocol.Seek, refs),
    st.builds(protocol.Starved, digest, size, bitfield),
    st.builds(protocol.Progress, number, piece, digests),
    st.builds(protocol.Release, number, reason),
    st.builds(protocol.Trimmed, number, piece),
    st.builds(protocol.Quiet, registry, st.sampled_from([0.0, 1.0, 1e9])),
    st.builds(protocol.Refresh, registry, repository),
    st.builds(protocol.Table, digest, size, bitfield, digests),
    st.builds(protocol.Corrupt, digest, size),
    st.builds(protocol.Hello, number, st.just(PEERS[0]), st.just(1)),
    st.builds(protocol.Resolve, number, registry, repository, tag, st.just("manifest")),
    st.builds(protocol.Publish, registry, repository, tag, st.just("manifest"), digest, size),
)
good_key = st.sampled_from([BlobKey(Digest.of(b"1"), 4 * MIB), BlobKey(Digest.of(b"2"), 4 * MIB)])
two_bytes = st.binary(min_size=2, max_size=2)
good_wanted = st.builds(
    lambda key, name, have: protocol.Wanted(key.digest, key.size, "docker.io", name, have),
    good_key,
    st.sampled_from(["a/b", "c/d"]),
    st.sampled_from([b"", b"\x01\x00"]),
)
sensible = st.one_of(
    st.builds(protocol.Open, st.lists(good_wanted, min_size=1, max_size=2)),
    st.builds(protocol.Progress, st.integers(1, 4), st.integers(0, 9), st.integers(1, 4).map(lambda n: bytes(n * 16))),
    st.builds(lambda key, have: protocol.Announce([protocol.Held(key.digest, key.size, have)]), good_key, two_bytes),
    st.builds(lambda key, pieces: protocol.Starved(key.digest, key.size, pieces), good_key, two_bytes),
)
step = st.tuples(st.sampled_from(PEERS), messages | sensible | sensible, st.sampled_from([0.0, 0.1, 0.6, 3.0]))


def check(tracker: Tracker) -> None:
    """What is always true of the tracker's books."""
    leases = [lease for origin in tracker._origins.values() for lease in origin.leases.values()]
    for key, swarm in tracker.swarms.items():
        assert swarm.key == key
        leased = 0
        for lease in (lease for lease in leases if lease.swarm is swarm):
            assert not leased & lease.rest
            assert lease.holder in swarm.members
            leased |= lease.rest
        coming = 0
        for pieces, _ in swarm.coming.values():
            coming |= pieces
        assert swarm.leased == leased
        assert swarm.free == swarm.layout.all & ~leased & ~swarm.held & ~coming
        assert swarm.members
        assert set(swarm.leechers) | set(swarm.starved) | set(swarm.coming) <= set(swarm.members)
    assert all(lease.swarm is tracker.swarms[lease.swarm.key] for lease in leases)


AboutALease = protocol.Progress | protocol.Release | protocol.Trimmed


def aimed(peer: PeerId, message: protocol.FromPeer, leases: list[Lease]) -> tuple[PeerId, protocol.FromPeer]:
    """The message; where it is about a lease with a small number, about one that there is, from its holder."""
    if isinstance(message, AboutALease) and 0 < message.lease <= len(leases):
        lease = leases[message.lease - 1]
        return lease.holder, msgspec.structs.replace(message, lease=lease.id)
    return peer, message


@settings(deadline=None, max_examples=300)
@given(st.lists(step, min_size=12, max_size=40), st.integers(0, 2**16))
def test_the_books_stay_true_whatever_peers_say(
    steps: list[tuple[PeerId, protocol.FromPeer, float]], seed: int
) -> None:
    tracker, now = Tracker(random.Random(seed)), 0.0
    for peer in PEERS:
        tracker.join(peer, Contact("host", 1, ""), now, confirms=peer != PEERS[2])
    for sender, said, seconds in steps:
        now += seconds
        leases = [lease for origin in tracker._origins.values() for lease in origin.leases.values()]
        peer, message = aimed(sender, said, leases)
        with contextlib.suppress(InvalidMessage):
            tracker.receive(peer, protocol.from_peer.decode(protocol.from_peer.encode(message)), now)
        check(tracker)
        tracker.tick(now)
        check(tracker)
        for _, told in tracker.take():
            assert len(protocol.from_supernode.encode(told)) < 4 * MIB
    for peer in PEERS:
        tracker.leave(peer, now)
    assert (tracker.swarms, tracker.leases) == ({}, 0)
    books = (tracker._peers, tracker._contacts, tracker._origins, tracker._testimony.swarms, tracker._expecting)
    assert not any(books)


def test_a_lease_of_an_honest_peer_is_not_moved_by_another_ones_numbers() -> None:
    tracker, key = Tracker(random.Random(1)), BlobKey(Digest.of(b"1"), 4 * MIB)
    for peer in PEERS:
        tracker.join(peer, Contact("host", 1, ""), 0.0)
    tracker.receive(PEERS[0], protocol.Open([protocol.Wanted(*key, "docker.io", "a/b")]), 0.0)
    (lease,) = next(iter(tracker._origins.values())).leases.values()
    for first in (0, 5, MAX_PIECES - 1):
        tracker.receive(PEERS[1], protocol.Progress(lease.id, first, bytes(1000 * PIECE_DIGEST_SIZE)), 0.0)
        tracker.receive(PEERS[1], protocol.Release(lease.id, "failed"), 0.0)
    assert (lease.next, tracker.leases) == (0, 1)
