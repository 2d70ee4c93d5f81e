"""The machine under hostile messages and through chaos: whatever is said, its books stay true."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bench.simulation import Peer, Simulation
from peer import wire
from peer.asked import Asked, Behind
from peer.commands import Answer, Discard, Fail, FailReaders, Fetch, Hold, Land, Park, Send, Serve, StopFetch, TellTable
from peer.errors import DownloadFailed
from peer.machine import Machine, MachineSettings
from peer.origin import NoRange, OriginDenied, OriginNotFound, OriginUnavailable, SizeDiffers
from peer.piecemap import StreamId
from peer.uploads import Upload
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.messages import BlobRef, InvalidMessage
from shoal.pieces import KIB, MIB, PIECE_DIGEST_SIZE, PieceLayout, iterate, to_bitfield
from shoal.reference import Location
from supernode import protocol, report
from supernode.protocol import PeerId

MB = 1_000_000

# --- hostile messages ---------------------------------------------------------------------------------------------

KEYS = [BlobKey(Digest.of(b"one"), 2 * MIB), BlobKey(Digest.of(b"two"), 300 * KIB)]
STORED = BlobKey(Digest.of(b"stored"), MIB)
OTHERS = [STORED, BlobKey(KEYS[0].digest, 2 * MIB + 1), BlobKey(Digest.of(b"unknown"), 1 << 40)]
PEERS = [PeerId(name * 32) for name in "abcd"]
PLACES = [Location.parse("docker.io", "library/a"), Location.parse("quay.io", "b/c")]
ERRORS = [
    *[OriginUnavailable("gone")] * 8,
    OriginDenied("403"),
    OriginNotFound("404"),
    NoRange("whole"),
    SizeDiffers("5", 5),
]

Name = tuple[str, int]
peers, keys = st.sampled_from(PEERS), st.sampled_from(KEYS)
names: st.SearchStrategy[Name] = st.sampled_from(
    [(str(key.digest), key.size) for key in [*KEYS * 4, STORED, *OTHERS]]
    + [("", 0), ("sha256:", 5), ("sha512:" + "0" * 64, 1 << 40), ("\x00", 1)]
)
numbers = st.one_of(st.integers(0, 7), st.integers(0, 1), st.integers(0, (1 << 17) - 1))
leases = st.one_of(st.integers(0, 5), st.integers(0, 1 << 53))
bitfields = st.one_of(
    st.integers(0, 255).map(lambda pieces: bytes([pieces])),
    st.integers(0, 3).map(lambda pieces: bytes([pieces])),
    st.binary(max_size=20),
)
digests = st.one_of(st.binary(max_size=20), st.integers(0, 9).map(lambda count: b"\x07" * count * PIECE_DIGEST_SIZE))


def blob_refs() -> st.SearchStrategy[list[BlobRef]]:
    return st.lists(names.map(lambda name: BlobRef(*name)), max_size=4)


@st.composite
def from_neighbours(draw: st.DrawFn) -> wire.Kinds:
    kind = draw(st.sampled_from(wire.Kinds.__args__))
    digest, size = draw(names)
    piece = draw(numbers)
    match kind:
        case wire.Hello:
            return wire.Hello(2, draw(peers))
        case wire.Join:
            joined = st.tuples(names, bitfields).map(lambda each: wire.Joined(each[0][0], each[0][1], each[1]))
            return wire.Join(draw(st.lists(joined, max_size=4)))
        case wire.Part:
            return wire.Part(draw(blob_refs()))
        case wire.Have:
            pieces = draw(st.lists(numbers, max_size=5))
            told = draw(st.sampled_from([b"", b"\x07" * PIECE_DIGEST_SIZE * len(pieces), b"\x01"]))
            return wire.Have(digest, size, pieces, told)
        case wire.Coming:
            return wire.Coming(digest, size, draw(bitfields))
        case wire.Ready:
            return wire.Ready()
        case wire.Piece:
            return wire.Piece(digest, size, piece, draw(st.sampled_from([0, 1, 256 * KIB])))
        case _:
            message: wire.Kinds = kind(digest, size, piece)
            return message


@st.composite
def from_supernode(draw: st.DrawFn) -> protocol.FromSupernode:
    kind = draw(st.sampled_from(protocol.FromSupernode.__args__))
    digest, size = draw(names)
    match kind:
        case protocol.Welcome:
            return protocol.Welcome(2, 5.0)
        case protocol.Refused:
            return protocol.Refused("no")
        case protocol.BlobRefused:
            return protocol.BlobRefused(digest, size, "no room")
        case protocol.Handout:
            peer = st.sampled_from([*PEERS * 3, "", "z" * 32])
            neighbours = draw(st.lists(peer.map(lambda name: protocol.Neighbour(name, "host", 1)), max_size=4))
            return protocol.Handout(digest, size, neighbours)
        case protocol.TableNews:
            return protocol.TableNews(digest, size, draw(bitfields), draw(digests))
        case protocol.Grant:
            at = draw(st.sampled_from(PLACES))
            count = draw(st.one_of(st.integers(0, 9), st.integers(0, 1 << 17)))
            return protocol.Grant(draw(leases), digest, size, at.registry, at.repository, draw(numbers), count)
        case protocol.Trim:
            return protocol.Trim(draw(leases), draw(numbers))
        case protocol.Revoke:
            return protocol.Revoke(draw(leases))
        case protocol.Confirm:
            return protocol.Confirm("docker.io", "library/a", "latest", "manifests")
        case protocol.Resolved:
            return protocol.Resolved(1, "fresh")
        case protocol.Limits:
            return protocol.Limits(upload=1e6)
        case protocol.Visit:
            return protocol.Visit(1, PEERS[0], "host", 1)
        case protocol.Probed:
            return protocol.Probed(1, "host", 1, 1)
        case protocol.Quiet:
            return protocol.Quiet("docker.io", 1.0)
        case protocol.Refresh:
            return protocol.Refresh("docker.io", "library/a")
        case report.Watch:
            return report.Watch(1.0, [BlobRef(digest, size)])
        case protocol.Preheat:
            return protocol.Preheat("job", "docker.io/library/a:latest")
        case protocol.CancelPreheat:
            return protocol.CancelPreheat("job", "docker.io/library/a:latest")
        case protocol.KeepPins:
            return protocol.KeepPins("schedule", ["docker.io/library/a:latest"])
        case protocol.ListTags:
            return protocol.ListTags(1, "docker.io", "library/a", "*")
        case _:
            message: protocol.FromSupernode = kind(digest, size)
            return message


class Library:
    def __init__(self) -> None:
        self.blobs = {STORED}

    def holds(self, blob: BlobKey) -> bool:
        return blob in self.blobs

    def holdings(self) -> Iterable[BlobKey]:
        return self.blobs


class Hostile(RuleBasedStateMachine):
    """A machine and a runner that does what it is told, later or never, as the engine may."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.library = Library()
        self.connected: set[PeerId] = set()
        self.generation = itertools.count()
        self.shelf: dict[BlobKey, int] = {}
        self.landing: list[tuple[int, Land]] = []
        self.streams: dict[StreamId, Fetch] = {}
        self.uploads: list[Upload] = []

    @initialize(seed=st.integers(0, 99), has_supernode=st.booleans())
    def begin(self, seed: int, has_supernode: bool) -> None:
        made = MachineSettings(has_supernode=has_supernode)
        self.machine = Machine(made, self.library, random.Random(seed), 0.0)
        if has_supernode:
            self.machine.joined(5.0, 0.0)
        self.opens(KEYS, PLACES[0])
        for peer in PEERS[:2]:
            self.a_seed_comes(KEYS[0], peer)

    def carry_out(self) -> None:
        for command in self.machine.take(self.now):
            match command:
                case Fetch():
                    assert command.blob in self.shelf
                    assert 0 <= command.first < command.end <= PieceLayout.of(command.blob.size).count
                    self.streams[command.stream] = command
                case StopFetch():
                    self.streams.pop(command.stream, None)
                case Land():
                    assert command.blob in self.shelf
                    self.landing.append((self.shelf[command.blob], command))
                case Discard() | FailReaders():
                    assert command.blob in self.shelf
                case Answer() | Hold():
                    assert command.blob in self.shelf
                case Fail() | Park():
                    del self.shelf[command.blob]
                case Serve():
                    assert command.upload.blob in self.shelf or self.library.holds(command.upload.blob)
                    self.uploads.append(command.upload)
                case Send():
                    wire.codec.encode(command.message)
                    assert command.peers
                case TellTable():
                    assert self.library.holds(command.blob)

    # --- what is said ---------------------------------------------------------------------------------------------

    @rule(peer=peers, message=from_neighbours())
    def a_neighbour_says(self, peer: PeerId, message: wire.Kinds) -> None:
        if peer not in self.connected:
            return
        try:
            if isinstance(message, wire.Piece):
                if self.machine.exchange.accepts(peer, message, self.now):
                    self.machine.exchange.piece(peer, message, bytearray(), self.now)
            else:
                self.machine.said(peer, message, self.now)
        except InvalidMessage:
            self.goes(peer)
        self.carry_out()

    @rule(message=from_supernode())
    def the_supernode_says(self, message: protocol.FromSupernode) -> None:
        if not self.machine.connected:
            return
        try:
            self.machine.heard(message, self.now)
        except InvalidMessage:
            pass
        self.carry_out()

    @rule(key=keys, right=st.booleans())
    def the_supernode_tells_all_digests(self, key: BlobKey, right: bool) -> None:
        count = PieceLayout.of(key.size).count
        table = bytes([7 if right else 8]) * PIECE_DIGEST_SIZE * count
        self.the_supernode_says(protocol.TableNews(*key, to_bitfield((1 << count) - 1, count), table))

    @rule(key=keys, peer=peers)
    def a_seed_comes(self, key: BlobKey, peer: PeerId) -> None:
        self.comes(peer)
        self.a_neighbour_says(peer, wire.Join([wire.Joined(*key)]))

    @rule(peer=peers, key=st.sampled_from([STORED, *KEYS]), piece=st.integers(0, 3))
    def a_neighbour_asks(self, peer: PeerId, key: BlobKey, piece: int) -> None:
        self.comes(peer)
        self.a_neighbour_says(peer, wire.Request(*key, piece))

    @rule(data=st.data())
    def what_was_asked_for_comes(self, data: st.DataObject) -> None:
        asked = [
            (peer, key, piece)
            for key, sought in self.machine.sought.items()
            for piece in iterate(sought.pieces.asked)
            for peer in sought.pieces.askers(piece)
        ]
        if asked:
            peer, key, piece = data.draw(st.sampled_from(asked))
            self.a_neighbour_says(peer, wire.Piece(*key, piece, PieceLayout.of(key.size).length(piece)))

    @rule(peer=peers)
    def comes(self, peer: PeerId) -> None:
        if peer not in self.connected:
            self.connected.add(peer)
            self.machine.arrived(peer, self.now)
            self.carry_out()

    @rule(peer=peers)
    def goes(self, peer: PeerId) -> None:
        if peer in self.connected:
            self.connected.discard(peer)
            self.machine.gone(peer, self.now)
        else:
            self.machine.unreachable(peer, self.now)
        self.carry_out()

    @rule()
    def all_that_was_asked_for_comes_and_is_written(self) -> None:
        for key, sought in list(self.machine.sought.items()):
            for piece in iterate(sought.pieces.asked):
                for peer in list(sought.pieces.askers(piece))[:1]:
                    message = wire.Piece(*key, piece, sought.layout.length(piece))
                    assert self.machine.exchange.accepts(peer, message, self.now)
                    self.machine.exchange.piece(peer, message, bytearray(), self.now)
        self.carry_out()
        while self.landing:
            self.is_written(0, "right")

    @precondition(lambda self: self.machine.connected)
    @rule(key=keys)
    def all_is_void(self, key: BlobKey) -> None:
        self.the_supernode_says(protocol.Void(*key))

    @precondition(lambda self: self.machine.connected)
    @rule(key=keys, neighbours=st.lists(peers, unique=True))
    def neighbours_are_handed_out(self, key: BlobKey, neighbours: list[PeerId]) -> None:
        contacts = [protocol.Neighbour(peer, "host", 1) for peer in neighbours]
        self.the_supernode_says(protocol.Handout(*key, contacts))

    @precondition(lambda self: self.machine.connected)
    @rule(key=keys, lease=st.integers(0, 5), first=st.integers(0, 3), count=st.integers(1, 4))
    def a_lease_is_granted(self, key: BlobKey, lease: int, first: int, count: int) -> None:
        self.the_supernode_says(protocol.Grant(lease, *key, PLACES[0].registry, PLACES[0].repository, first, count))

    @rule(often=st.integers(0, 3))
    def the_supernode_is_lost_or_back(self, often: int) -> None:
        if often and self.machine.connected:
            return
        if self.machine.connected:
            self.machine.lost(self.now)
        else:
            self.machine.joined(5.0, self.now)
        self.carry_out()

    # --- what clients want ----------------------------------------------------------------------------------------

    @rule(
        wanted=st.lists(keys, unique=True, min_size=1),
        place=st.sampled_from(PLACES),
        behind=st.sampled_from(list(Behind)),
    )
    def opens_for_a_range(self, wanted: list[BlobKey], place: Location, behind: Behind) -> None:
        self.opens(wanted, place, Asked((PieceLayout.of(wanted[0].size).span(0),), behind))

    @rule(wanted=st.lists(keys, unique=True, min_size=1), place=st.sampled_from(PLACES))
    def opens(self, wanted: list[BlobKey], place: Location, asked: Asked | None = None) -> None:
        fresh = [key for key in wanted if key not in self.shelf and key not in self.library.blobs]
        for key in fresh:
            self.shelf[key] = next(self.generation)
        self.machine.open([(key, 0, {}) for key in fresh], place, self.now, asked)
        for key in wanted:
            if key in self.machine.sought:
                self.machine.demand(key, place, self.now)
        self.carry_out()

    @rule(key=keys, reader=st.integers(1, 3), piece=st.integers(0, 1), waits=st.booleans())
    def reads(self, key: BlobKey, reader: int, piece: int, waits: bool) -> None:
        self.machine.reading(key, reader, piece, self.now if waits else None)
        self.carry_out()

    @rule(key=keys, reader=st.integers(1, 3), first=st.integers(0, 1), behind=st.sampled_from([None, *Behind]))
    def asks(self, key: BlobKey, reader: int, first: int, behind: Behind | None) -> None:
        sought = self.machine.sought.get(key)
        if sought is not None:
            span = sought.layout.span(first % sought.layout.count)
            self.machine.asks(key, reader, Asked((span,), behind) if behind else None, self.now)
            self.machine.demand(key, next(iter(sought.places)), self.now)
            self.carry_out()

    @rule(key=keys, reader=st.integers(1, 3))
    def leaves(self, key: BlobKey, reader: int) -> None:
        self.machine.left(key, reader, self.now)
        self.carry_out()

    # --- what the runner did --------------------------------------------------------------------------------------

    @precondition(lambda self: self.landing)
    @rule(data=st.data(), how=st.sampled_from(["right"] * 20 + ["corrupt"] * 4 + ["unwritable"]))
    def a_piece_is_written(self, data: st.DataObject, how: str) -> None:
        self.is_written(data.draw(st.integers(0, len(self.landing) - 1)), how)

    def is_written(self, place: int, how: str) -> None:
        generation, land = self.landing.pop(place)
        if self.shelf.get(land.blob) != generation:
            return
        if how == "corrupt" and not isinstance(land.source, int):
            self.machine.corrupt(land.blob, land.piece, land.source, land.expected or b"", self.now)
        elif how == "unwritable":
            self.machine.unwritable(land.blob, land.piece, land.source, DownloadFailed("no space"))
        else:
            digest = land.expected or b"\x07" * PIECE_DIGEST_SIZE
            self.machine.landed(land.blob, land.piece, digest, land.source, self.now)
        self.carry_out()

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def a_stream_brings(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(sorted(self.streams)))
        fetch = self.streams[stream]
        self.machine.sourcing.received(stream, self.now)
        piece = data.draw(st.integers(fetch.first, fetch.end - 1))
        _, goes_on = self.machine.sourcing.fetched(stream, piece, bytearray())
        if not goes_on:
            del self.streams[stream]
            self.machine.fetch_ended(stream, None, self.now)
        self.carry_out()

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), error=st.sampled_from(ERRORS))
    def a_stream_ends(self, data: st.DataObject, error: Exception) -> None:
        stream = data.draw(st.sampled_from(sorted(self.streams)))
        del self.streams[stream]
        self.machine.fetch_ended(stream, error, self.now)
        self.carry_out()

    @precondition(lambda self: self.uploads)
    @rule(sent=st.booleans())
    def an_upload_ends(self, sent: bool) -> None:
        upload = self.uploads.pop(0)
        if sent:
            self.machine.uploaded(upload)
        else:
            self.machine.unservable(upload)
        self.carry_out()

    @rule(right=st.booleans())
    def whole_blobs_are_judged(self, right: bool) -> None:
        for key, sought in list(self.machine.sought.items()):
            if sought.pieces.missing:
                continue
            if right and sought.passes:
                self.machine.passed(key)
            elif right:
                self.library.blobs.add(key)
                self.machine.verified(key, self.now)
                del self.shelf[key]
            else:
                self.machine.mismatched(key, self.now)
        self.carry_out()

    @rule(key=keys, filed=st.integers(0, 15), hashed=st.integers(0, 2))
    def the_store_takes_no_more(self, key: BlobKey, filed: int, hashed: int) -> None:
        sought = self.machine.sought.get(key)
        if sought is not None:
            self.machine.pass_by(key, sought.pieces.there & filed, min(hashed, sought.layout.count), self.now)
            self.carry_out()

    @rule(key=keys, reached=st.integers(0, 2))
    def the_hash_goes_on(self, key: BlobKey, reached: int) -> None:
        self.machine.hashed(key, min(reached, PieceLayout.of(key.size).count))
        self.carry_out()

    @rule(key=keys)
    def a_stored_blob_is_lost(self, key: BlobKey) -> None:
        if key in self.library.blobs:
            self.library.blobs.discard(key)
            self.machine.forgotten(key)
            self.carry_out()

    @rule(key=keys, how_often=st.integers(0, 15))
    def a_blob_fails(self, key: BlobKey, how_often: int) -> None:
        if not how_often:
            self.machine.fail(key, DownloadFailed("chance"))
            self.carry_out()

    @rule(ticks=st.sampled_from([1, 1, 1, 2, 4, 10, 70]))
    def time_goes_on(self, ticks: int) -> None:
        for _ in range(ticks):
            self.now += 0.25
            self.machine.wake(self.now)
            self.machine.tick(self.now)
            self.carry_out()

    # --- what is always so ----------------------------------------------------------------------------------------

    @invariant()
    def each_piece_is_in_one_state(self) -> None:
        for key, sought in self.machine.sought.items():
            pieces = sought.pieces
            states = [pieces.absent, pieces.asked, pieces.leased, pieces.landing, pieces.there]
            assert sum(state.bit_count() for state in states) == PieceLayout.of(key.size).count
            union = 0
            for state in states:
                union |= state
            assert union == pieces.layout.all
            assert sought.pieces.there & ~sum(1 << piece for piece in sought.table) == 0
            assert sought.book.checkable & ~sum(1 << piece for piece in sought.table) == 0
            assert sought.own & ~pieces.there == 0
            if sought.passes:
                assert pieces.there & ~sought.book.scope & ~(sought.filed & sought.later) == 0
                assert (pieces.leased | sought.book.scope) & ~sought.later == 0

    @invariant()
    def requests_are_counted(self) -> None:
        exchange = self.machine.exchange
        loads = Counter(
            peer
            for sought in self.machine.sought.values()
            for piece in iterate(sought.pieces.asked)
            for peer in sought.pieces.askers(piece)
        )
        assert exchange.requests.count == loads.total()
        assert all(exchange.requests.load(peer) == loads[peer] for peer in PEERS)
        assert loads.keys() <= self.connected

    @invariant()
    def what_is_leased_a_stream_brings(self) -> None:
        streams = self.machine.sourcing.streams
        for sought in self.machine.sought.values():
            brought = [stream.rest for stream in streams.values() if stream.sought is sought]
            assert sum(rest.bit_count() for rest in brought) == sought.pieces.leased.bit_count()
        for stream in streams.values():
            assert self.machine.sought.get(stream.sought.key) is stream.sought
            assert not stream.rest or stream.is_running or stream.retry_at < float("inf")
        assert {stream.id for stream in streams.values() if stream.is_running} == self.streams.keys()
        assert self.machine.exchange.streams == len(self.streams)

    @invariant()
    def only_blobs_on_the_shelf_are_sought(self) -> None:
        assert self.machine.sought.keys() == self.shelf.keys()
        assert self.machine.exchange.sharing.told.keys() == self.connected


Hostile.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestHostile = Hostile.TestCase


# --- chaos --------------------------------------------------------------------------------------------------------


class Chaos(Simulation):
    """Peers leave and the supernode dies and comes back, at random."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        count = rng.choice([3, 4])
        rates = [rng.choice([2.0, 10.0]) * MB for _ in range(count)]
        super().__init__(8 * MB, rates, rng.choice([2.0, 10.0]) * MB, seed, layers=rng.choice([1, 1, 4]))
        everybody = list(self._peers.values())
        for peer in rng.sample(everybody, rng.randrange(count - 1)):
            self.later(4.0 * rng.random(), self.leave, peer)
        at = 0.0
        for _ in range(rng.randrange(4)):
            at += 3.0 * rng.random()
            self.later(at, self.supernode_dies)
            at += 3.0 * rng.random()
            self.later(at, self.supernode_returns)

    @property
    def stayed(self) -> list[Peer]:
        return [peer for peer in self._peers.values() if not peer.gone]


@pytest.mark.parametrize("seed", range(40))
def test_all_who_stay_get_everything_through_chaos(seed: int) -> None:
    chaos = Chaos(seed)
    outcome = chaos.run()
    assert chaos.stayed
    for peer in chaos.stayed:
        assert not peer.machine.sought
        assert not peer.machine.sourcing.streams
        assert peer.machine.exchange.requests.count == 0
        assert len(peer.library.blobs) == len(chaos._blobs)
    assert outcome.egress < 2
