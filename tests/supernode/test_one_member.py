"""What one member can make the supernode keep and do, at its worst."""

from __future__ import annotations

import time

from shoal.descriptor import BlobKey
from shoal.digest import Digest
from supernode import protocol
from supernode.protocol import PeerId
from tests.supernode.test_tracker import A, B, World, grants

_DIGESTS = [f"sha256:{number:064x}" for number in range(10_000)]


def test_a_member_that_wants_and_leaves_ten_thousand_made_up_blobs_holds_up_nobody() -> None:
    world = World()
    world.join(A, B)
    began = time.process_time()
    for start in range(0, len(_DIGESTS), 1000):
        blobs = [
            protocol.Wanted(digest, 50_000_000, "docker.io", f"made/up-{number}")
            for number, digest in enumerate(_DIGESTS[start : start + 1000], start)
        ]
        world.say(A, protocol.Open(blobs))
        world.say(A, protocol.Announce([protocol.Held(blob.digest, blob.size) for blob in blobs]))
    assert world.tracker._ledger.taken(A) <= 128 << 20
    assert len(grants(world.say(B, protocol.Open([protocol.Wanted(Digest.of(b"good"), 10, "quay.io", "a/b")])))) == 1
    world.tracker.leave(A, world.now)
    assert time.process_time() - began < 5.0, "half a millisecond for each"
    assert list(world.tracker.swarms) == [BlobKey(Digest.of(b"good"), 10)]


def test_a_member_that_publishes_a_hundred_thousand_made_up_tags_takes_so_much_and_no_more() -> None:
    world = World()
    world.join(A, B)
    place = "docker.io", "library/good"
    world.say(B, protocol.Resolve(1, *place, "honest", "manifest"))
    world.say(B, protocol.Publish(*place, "honest", "manifest", Digest.of(b"good"), 10, "x/y"))
    for number in range(100_000):
        reference = f"{number:0128d}"
        world.say(A, protocol.Resolve(number, *place, reference, "manifest"))
        world.say(A, protocol.Publish(*place, reference, "manifest", _DIGESTS[0], 10, "x/y"))
    assert world.tracker._tags.size <= 32 << 20
    told = world.say(PeerId(B), protocol.Resolve(2, *place, "honest", "manifest"))
    assert [message.digest for _, message in told if isinstance(message, protocol.Resolved)] == [Digest.of(b"good")]
