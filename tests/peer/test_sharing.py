"""What a peer tells its neighbours of its pieces, as tables of the machine: these events, those messages."""

from __future__ import annotations

import random
from collections.abc import Iterable

from peer import wire
from peer.commands import Command, Send
from peer.machine import Machine, MachineSettings
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.messages import BlobRef
from shoal.pieces import MIB, PIECE_DIGEST_SIZE, PieceLayout, PieceSet, iterate, run_of, to_bitfield
from shoal.reference import Location
from supernode import protocol
from supernode.protocol import PeerId

AT = Location.parse("docker.io", "library/a")
A, B, C = (PeerId(name * 32) for name in "abc")
LAYERS = [BlobKey(Digest.of(b"%d" % place), MIB) for place in range(41)]
KEY = LAYERS[0]


class Library:
    def __init__(self) -> None:
        self.blobs: list[BlobKey] = []

    def holds(self, blob: BlobKey) -> bool:
        return blob in self.blobs

    def holdings(self) -> Iterable[BlobKey]:
        return self.blobs


class World:
    """A machine whose clock goes where the machine wants to be woken."""

    def __init__(self) -> None:
        self.library = Library()
        self.machine = Machine(MachineSettings(), self.library, random.Random(1), 0.0)
        self.now = 0.0
        self.machine.joined(5.0, 0.0)

    def open(self, *keys: BlobKey) -> None:
        self.machine.open([(key, 0, {}) for key in keys], AT, self.now)

    def hand_out(self, key: BlobKey, *peers: PeerId) -> None:
        self.machine.heard(protocol.Handout(*key, [protocol.Neighbour(peer, "host", 1) for peer in peers]), self.now)

    def meet(self, key: BlobKey, peer: PeerId, have: PieceSet = 0) -> None:
        """A neighbour comes and joins."""
        layout = PieceLayout.of(key.size)
        self.hand_out(key, peer)
        self.machine.arrived(peer, self.now)
        self.machine.said(peer, wire.Join([wire.Joined(*key, to_bitfield(have, layout.count))]), self.now)
        self.told(peer)

    def fetch(self, key: BlobKey, pieces: PieceSet) -> None:
        """Pieces come from an origin."""
        self.machine.heard(protocol.Grant(1, *key, AT.registry, AT.repository, 0, pieces.bit_length()), self.now)
        (stream,) = self.machine.sourcing.streams
        for piece in iterate(pieces):
            self.machine.sourcing.fetched(stream, piece, bytearray())
            self.machine.landed(key, piece, digest(piece), stream, self.now)

    def told(self, peer: PeerId) -> list[wire.Kinds]:
        """The messages to a neighbour from now until nothing more is planned, requests aside."""
        said: list[Command] = list(self.machine.take(self.now))
        while self.machine.wake_at != float("inf"):
            self.now = self.machine.wake_at
            self.machine.wake(self.now)
            said += self.machine.take(self.now)
        sent = [each.message for each in said if isinstance(each, Send) and peer in each.peers]
        return [message for message in sent if not isinstance(message, wire.Request)]


def digest(piece: int) -> bytes:
    return piece.to_bytes(PIECE_DIGEST_SIZE, "big")


def test_the_handouts_of_an_image_are_told_to_a_neighbour_in_one_message() -> None:
    world = World()
    world.open(*LAYERS)
    world.machine.arrived(A, world.now)
    for key in LAYERS:
        world.hand_out(key, A)
    (joined,) = world.told(A)
    assert isinstance(joined, wire.Join)
    assert [(blob.digest, blob.size) for blob in joined.blobs] == LAYERS


def test_a_neighbour_that_comes_later_is_told_of_all_blobs_that_it_was_handed_out_for() -> None:
    world = World()
    world.open(*LAYERS)
    for key in LAYERS[:5]:
        world.hand_out(key, A)
    world.machine.arrived(A, world.now)
    (joined,) = world.told(A)
    assert isinstance(joined, wire.Join)
    assert [(blob.digest, blob.size) for blob in joined.blobs] == LAYERS[:5]


def test_without_a_supernode_those_who_share_a_blob_are_told_of_it_and_no_others() -> None:
    world = World()
    world.open(*LAYERS[:2])
    world.meet(KEY, A)
    world.meet(LAYERS[1], B)
    world.fetch(KEY, 0b1)
    world.told(A)
    world.machine.lost(world.now)
    (have,) = [message for message in world.told(A) if isinstance(message, wire.Have)]
    assert (have.digest, have.size, have.digests) == (*KEY, digest(0))

    world.machine.lost(world.now)
    assert not [message for message in world.told(B) if isinstance(message, wire.Have)]


def test_a_blob_that_begins_again_is_shared_with_the_same_neighbours() -> None:
    world = World()
    world.open(KEY)
    world.meet(KEY, A)
    world.fetch(KEY, 0b11)
    world.told(A)
    sought = world.machine.sought[KEY]
    sought.own = 0b01
    world.machine.heard(protocol.Void(*KEY), world.now)
    part, join = world.told(A)
    assert part == wire.Part([BlobRef(*KEY)])
    assert isinstance(join, wire.Join)
    assert [blob.have for blob in join.blobs] == [to_bitfield(0b01, sought.layout.count)]


def test_news_of_a_blob_that_begins_again_is_not_told() -> None:
    world = World()
    world.open(KEY)
    world.meet(KEY, A)
    world.fetch(KEY, 0b1)
    world.machine.sought[KEY].own = 0
    world.machine.heard(protocol.Void(*KEY), world.now)
    assert not [message for message in world.told(A) if isinstance(message, wire.Have)]


def test_a_neighbour_is_not_told_of_pieces_that_it_has() -> None:
    world = World()
    world.open(KEY)
    world.meet(KEY, A, have=0b01)
    world.meet(KEY, B, have=0b11)
    world.machine.arrived(C, world.now)
    world.fetch(KEY, 0b11)
    said = world.machine.take(world.now)
    world.machine.wake(world.now)
    said += world.machine.take(world.now)
    news = [(list(each.peers), each.message) for each in said if isinstance(each, Send)]
    assert [(peers, message) for peers, message in news if isinstance(message, wire.Have)] == [
        ([A], wire.Have(*KEY, [1]))
    ]


def test_one_message_tells_several_neighbours_the_same_news() -> None:
    world = World()
    world.open(KEY)
    for peer in (A, B, C):
        world.meet(KEY, peer)
    world.fetch(KEY, 0b11)
    world.machine.wake(world.now)
    news = [each for each in world.machine.take(world.now) if isinstance(each, Send)]
    (have,) = (each for each in news if isinstance(each.message, wire.Have))
    assert set(have.peers) == {A, B, C}


def test_news_of_what_neighbours_gave_is_collected_for_a_moment() -> None:
    world = World()
    world.open(KEY)
    world.meet(KEY, A, have=0b11)
    world.meet(KEY, B)
    digests = digest(0) + digest(1)
    world.machine.heard(protocol.TableNews(*KEY, to_bitfield(0b11, 4), digests), world.now)
    world.machine.take(world.now)
    for piece in (0, 1):
        world.machine.exchange.piece(A, wire.Piece(*KEY, piece, 256 << 10), bytearray(), world.now)
        world.machine.landed(KEY, piece, digest(piece), A, world.now)
    assert world.machine.wake_at > world.now
    assert world.told(B) == [wire.Have(*KEY, [0, 1])]


def test_news_of_many_pieces_is_split() -> None:
    key = BlobKey(Digest.of(b"large"), 20_000 * MIB)
    world, count = World(), 2100
    world.open(key)
    world.meet(key, A)
    world.fetch(key, run_of(0, count))
    messages = world.told(A)
    assert all(isinstance(message, wire.Have) for message in messages)
    told = [message.pieces for message in messages if isinstance(message, wire.Have)]
    assert [len(pieces) for pieces in told] == [2048, count - 2048]
    assert [piece for pieces in told for piece in pieces] == list(range(count))
    for message in messages:
        wire.codec.encode(message)


def test_digests_go_with_own_pieces_only_while_no_supernode_tells_them() -> None:
    world = World()
    world.open(KEY)
    world.meet(KEY, A)
    world.fetch(KEY, 0b1)
    assert world.told(A) == [wire.Have(*KEY, [0])]
    world.machine.lost(world.now)
    assert world.told(A)[0] == wire.Have(*KEY, [0], digest(0))
    sought = world.machine.sought[KEY]
    for piece in (1, 2):
        sought.pieces.absent &= ~(1 << piece)
        sought.pieces.landing |= 1 << piece
    sought.own |= 0b10
    world.machine.landed(KEY, 1, digest(1), B, world.now)
    world.machine.landed(KEY, 2, digest(2), B, world.now)
    haves = [message for message in world.told(A) if isinstance(message, wire.Have)]
    assert haves == [wire.Have(*KEY, [1], digest(1)), wire.Have(*KEY, [2])]
    world.machine.joined(5.0, world.now)
    world.machine.heard(protocol.Grant(2, *KEY, AT.registry, AT.repository, 3, 1), world.now)
    *_, stream = world.machine.sourcing.streams
    world.machine.sourcing.fetched(stream, 3, bytearray())
    world.machine.landed(KEY, 3, digest(3), stream, world.now)
    assert world.told(A) == [wire.Have(*KEY, [3])]


def test_who_joins_a_swarm_that_this_peer_is_not_in_is_told_so() -> None:
    world = World()
    world.machine.arrived(A, world.now)
    world.machine.said(A, wire.Join([wire.Joined(*KEY), wire.Joined(*LAYERS[1])]), world.now)
    assert world.told(A) == [wire.Part([BlobRef(*KEY), BlobRef(*LAYERS[1])])]


def test_a_stored_blob_is_joined_whole() -> None:
    world = World()
    world.library.blobs.append(KEY)
    world.machine.arrived(A, world.now)
    world.machine.said(A, wire.Join([wire.Joined(*KEY, b"\x00")]), world.now)
    assert world.told(A) == [wire.Join([wire.Joined(*KEY)])]


def test_the_bitfields_of_one_join_are_of_bounded_size() -> None:
    keys = [BlobKey(Digest.of(b"huge%d" % place), 1 << 40) for place in range(6)]
    world = World()
    world.open(*keys)
    for key in keys:
        world.hand_out(key, A)
    world.machine.arrived(A, world.now)
    messages = world.told(A)
    assert [len(message.blobs) for message in messages if isinstance(message, wire.Join)] == [4, 2]
    for message in messages:
        wire.codec.encode(message)


def test_a_failed_blob_is_withdrawn_only_from_those_who_were_told_of_it() -> None:
    world = World()
    world.open(KEY)
    world.meet(KEY, A)
    world.machine.arrived(B, world.now)
    world.machine.fail(KEY, Exception("over"))
    sent = [each for each in world.machine.take(world.now) if isinstance(each, Send)]
    assert sent == [Send([A], wire.Part([BlobRef(*KEY)]))]
