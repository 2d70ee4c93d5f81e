"""The decisions of one peer, as tables: these events, those commands."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TypeVar

import pytest

from peer import wire
from peer.asked import Asked, Behind
from peer.commands import (
    Answer,
    Command,
    Dial,
    Discard,
    Fail,
    FailReaders,
    Fetch,
    HangUp,
    Land,
    Park,
    Send,
    Serve,
    StopFetch,
    Tell,
)
from peer.machine import Machine, MachineSettings
from peer.origin import NoRange, OriginDenied, OriginUnavailable, SizeDiffers
from peer.uploads import Upload
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.messages import BlobRef, Message, pieces_of
from shoal.pieces import MIB, PIECE_DIGEST_SIZE, PieceLayout, iterate, run_of, to_bitfield
from shoal.ranges import ByteRange
from shoal.reference import Location
from supernode import protocol
from supernode.protocol import LeaseId, PeerId

KEY = BlobKey(Digest.of(b"blob"), 4 * MIB)
LAYOUT = PieceLayout.of(KEY.size)
ALL = LAYOUT.all
HERE, THERE = Location.parse("docker.io", "library/a"), Location.parse("quay.io", "b/c")
A, B, C = (PeerId(name * 32) for name in "abc")
C_ = TypeVar("C_", bound=Command)


class Library:
    def __init__(self) -> None:
        self.blobs: set[BlobKey] = set()

    def holds(self, blob: BlobKey) -> bool:
        return blob in self.blobs

    def holdings(self) -> Iterable[BlobKey]:
        return self.blobs


class World:
    """A machine, a clock, and what it has said since it was last looked at."""

    def __init__(self, *, supernode: bool = True, connected: bool = True, seed: int = 1) -> None:
        self.library = Library()
        self.machine = Machine(MachineSettings(has_supernode=supernode), self.library, random.Random(seed), 0.0)
        self.now = 0.0
        self.said: list[Command] = []
        if supernode and connected:
            self.machine.joined(5.0, 0.0)

    def look(self, kind: type[C_]) -> list[C_]:
        """The commands of one kind that came since the last look; all others are forgotten."""
        self.collect()
        said, self.said = self.said, []
        return [command for command in said if isinstance(command, kind)]

    def collect(self) -> None:
        self.said += self.machine.take(self.now)

    def told(self, kind: type[Message]) -> list[protocol.FromPeer]:
        return [each.message for each in self.look(Tell) if isinstance(each.message, kind)]

    def open(self, *places: Location, have: int = 0) -> None:
        self.machine.open([(KEY, have, {})], places[0] if places else HERE, self.now)
        for place in places or (HERE,):
            self.machine.demand(KEY, place, self.now)

    def open_for(self, *spans: tuple[int, int], behind: Behind = Behind.REST, have: int = 0) -> None:
        """Open the blob for reader 1, who wants these pieces, `first` to `end - 1`."""
        asked = pieces_asked(*spans, behind=behind)
        self.machine.open([(KEY, have, {})], HERE, self.now, asked)
        self.ask(1, asked)

    def ask(self, reader: int, asked: Asked | None) -> None:
        self.machine.asks(KEY, reader, asked, self.now)
        self.machine.demand(KEY, HERE, self.now)
        self.collect()

    def hear(self, message: protocol.FromSupernode) -> None:
        self.machine.heard(message, self.now)
        self.collect()

    def meet(self, *peers: PeerId, have: int = ALL) -> None:
        """A handout of these neighbours, who come and join with `have`."""
        self.hear(protocol.Handout(*KEY, [protocol.Neighbour(peer, "host", 1) for peer in peers]))
        for peer in peers:
            self.machine.arrived(peer, self.now)
            self.machine.said(peer, wire.Join([wire.Joined(*KEY, to_bitfield(have, LAYOUT.count))]), self.now)

    def table(self, pieces: int = ALL) -> None:
        digests = b"".join(digest(piece) for piece in iterate(pieces))
        self.hear(protocol.TableNews(*KEY, to_bitfield(pieces, LAYOUT.count), digests))

    def grant(self, lease: int, first: int, count: int, at: Location = HERE) -> None:
        self.hear(protocol.Grant(lease, *KEY, at.registry, at.repository, first, count))

    def bring(self, stream: int, *pieces: int) -> None:
        """A stream brings pieces, which are written at once."""
        for piece in pieces:
            self.machine.sourcing.received(stream, self.now)  # type: ignore[arg-type]
            self.machine.sourcing.fetched(stream, piece, bytearray())  # type: ignore[arg-type]
            self.machine.landed(KEY, piece, digest(piece), stream, self.now)  # type: ignore[arg-type]

    def give(self, peer: PeerId, piece: int) -> None:
        """A neighbour's piece comes, is right and written."""
        self.machine.exchange.piece(peer, wire.Piece(*KEY, piece, LAYOUT.length(piece)), bytearray(), self.now)
        self.machine.landed(KEY, piece, digest(piece), peer, self.now)

    def turn_away(self, peer: PeerId, said: list[Command]) -> None:
        """A neighbour answers the requests among these commands with "busy"."""
        for command in said:
            if isinstance(command, Send) and isinstance(command.message, wire.Request):
                self.machine.said(peer, wire.Busy(*KEY, command.message.piece), self.now)

    def wait(self, seconds: float) -> None:
        """Time passes in ticks."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(self.now + 0.25, until)
            self.machine.wake(self.now)
            self.machine.tick(self.now)
            self.collect()

    @property
    def pieces(self):  # type: ignore[no-untyped-def]
        return self.machine.sought[KEY].pieces

    def requests(self) -> list[tuple[PeerId, int]]:
        return [
            (send.peers[0], send.message.piece) for send in self.look(Send) if isinstance(send.message, wire.Request)
        ]


def pieces_asked(*spans: tuple[int, int], behind: Behind = Behind.REST) -> Asked:
    ranges = [ByteRange(LAYOUT.span(first).start, LAYOUT.span(end - 1).end) for first, end in spans]
    return Asked(tuple(ranges), behind)


def spans_of(fetches: list[Fetch]) -> list[tuple[int, int]]:
    return [(fetch.first, fetch.end) for fetch in fetches]


def digest(piece: int) -> bytes:
    return bytes([piece]) * PIECE_DIGEST_SIZE


# --- asking -------------------------------------------------------------------------------------------------------


def test_what_a_neighbour_has_and_can_be_checked_is_asked_for() -> None:
    world = World()
    world.open()
    world.meet(A)
    assert world.requests() == []
    world.table()
    assert {peer for peer, _ in world.requests()} == {A}


def test_a_lease_that_is_to_end_earlier_keeps_what_has_come_and_is_coming() -> None:
    world = World()
    world.open()
    world.grant(1, 0, 16)
    (fetch,) = world.look(Fetch)
    for piece in range(4):
        world.machine.sourcing.received(fetch.stream, world.now)
        world.machine.sourcing.fetched(fetch.stream, piece, bytearray())
    world.machine.heard(protocol.Trim(1, 2), world.now)
    assert world.told(protocol.Trimmed) == [protocol.Trimmed(LeaseId(1), 5)]
    assert world.pieces.leased == 0b10000
    assert world.machine.sourcing.fetched(fetch.stream, 4, bytearray()) == (True, False)


def test_no_piece_is_asked_twice_of_one_neighbour_when_a_lease_over_it_was_cut() -> None:
    world = World()
    world.open()
    world.meet(A, B)
    world.table()
    world.grant(1, 0, 8)
    world.look(Send)
    world.hear(protocol.Trim(1, 2))
    for _ in range(3):
        for peer, piece in world.requests():
            assert world.pieces.askers(piece).keys() == {peer}
            world.machine.said(peer, wire.Absent(*KEY, piece), world.now)
    world.collect()
    assert world.machine.exchange.requests.count == sum(len(world.pieces.askers(p)) for p in range(LAYOUT.count))


def test_nothing_stays_counted_of_neighbours_that_are_killed() -> None:
    world = World()
    world.open()
    world.meet(A, B)
    world.table()
    assert world.requests()
    for peer in (A, B):
        world.machine.gone(peer, world.now)
    assert world.machine.exchange.requests.count == 0
    assert world.pieces.absent == ALL
    world.wait(60.0)


def test_a_lease_voids_the_requests_for_its_pieces() -> None:
    world = World()
    world.open()
    world.meet(A)
    world.table(0b11)
    assert sorted(world.requests()) == [(A, 0), (A, 1)]
    world.grant(1, 0, 4)
    cancelled = [each.message for each in world.look(Send) if isinstance(each.message, wire.Cancel)]
    assert [message.piece for message in cancelled] == [0, 1]
    assert (world.pieces.leased, world.pieces.asked) == (0b1111, 0)


def test_a_neighbour_that_never_answers_is_asked_no_more_and_others_are() -> None:
    world = World()
    world.open()
    world.meet(A)
    world.table()
    assert {peer for peer, _ in world.requests()} == {A}
    world.wait(2.5)
    world.look(Send)
    world.meet(B)
    assert {peer for peer, _ in world.requests()} == {B}
    assert world.machine.exchange.requests.load(A) == 0


# --- trust --------------------------------------------------------------------------------------------------------


def test_a_piece_that_does_not_match_shuns_nobody_before_the_whole_is_verified() -> None:
    world = World()
    world.open()
    world.meet(A)
    world.table()
    (_, piece), *_ = world.requests()
    world.machine.exchange.piece(A, wire.Piece(*KEY, piece, LAYOUT.length(piece)), bytearray(), world.now)
    world.machine.corrupt(KEY, piece, A, digest(piece), world.now)
    assert world.look(HangUp) == []
    assert (A, piece) not in world.requests()


@pytest.mark.parametrize("told_right", [True, False])
def test_when_the_whole_is_verified_only_who_sent_wrong_pieces_is_shunned(told_right: bool) -> None:
    world = World()
    world.open()
    world.meet(A)
    if told_right:
        world.table()
    else:
        world.hear(protocol.TableNews(*KEY, to_bitfield(ALL, LAYOUT.count), b"\xff" * LAYOUT.count * PIECE_DIGEST_SIZE))
    (_, piece), *_ = world.requests()
    world.machine.exchange.piece(A, wire.Piece(*KEY, piece, LAYOUT.length(piece)), bytearray(), world.now)
    told = digest(piece) if told_right else b"\xff" * PIECE_DIGEST_SIZE
    world.machine.corrupt(KEY, piece, A, told, world.now)
    world.machine.gone(A, world.now)
    world.grant(1, 0, LAYOUT.count)
    (fetch,) = world.look(Fetch)
    world.bring(fetch.stream, *range(LAYOUT.count))
    world.library.blobs.add(KEY)
    world.machine.verified(KEY, world.now)
    assert [(each.peer, each.shun > 0) for each in world.look(HangUp)] == ([(A, True)] if told_right else [])


def test_a_void_table_drops_what_neighbours_gave_and_keeps_what_the_origin_gave() -> None:
    world = World()
    world.open()
    world.meet(A)
    world.grant(1, 0, 2)
    (fetch,) = world.look(Fetch)
    world.bring(fetch.stream, 0, 1)
    world.table(0b1100)
    world.collect()
    world.give(A, 2)
    world.look(Send)
    world.hear(protocol.Void(*KEY))
    (discard,) = world.look(Discard)
    assert (discard.pieces, world.pieces.there) == (0b100, 0b11)


def test_a_seed_stays_one_when_the_table_is_void() -> None:
    world = World()
    world.library.blobs.add(KEY)
    world.hear(protocol.Void(*KEY))
    assert world.look(Discard) == []
    world.machine.arrived(A, world.now)
    world.machine.said(A, wire.Request(*KEY, 3), world.now)
    assert world.look(Serve) == [Serve(Upload(A, KEY, 3))]


def test_a_blob_that_is_wrong_begins_again_and_then_comes_from_the_origin_alone() -> None:
    world = World()
    world.open()
    world.meet(A)
    world.table()
    for _ in range(3):
        for peer, piece in world.requests():
            world.give(peer, piece)
    world.machine.mismatched(KEY, world.now)
    assert world.pieces.there == 0
    assert world.told(protocol.Corrupt)
    world.table()
    for _ in range(3):
        for peer, piece in world.requests():
            world.give(peer, piece)
    world.machine.mismatched(KEY, world.now)
    world.table()
    world.collect()
    assert not [send for send in world.said if isinstance(send, Send) and isinstance(send.message, wire.Request)]
    while fetches := world.look(Fetch):
        for fetch in fetches:
            world.bring(fetch.stream, *range(fetch.first, fetch.end))
            world.machine.fetch_ended(fetch.stream, None, world.now)
    assert world.pieces.there == ALL
    world.machine.mismatched(KEY, world.now)
    assert [fail.blob for fail in world.look(Fail)] == [KEY]


def test_a_piece_whose_digest_has_changed_meanwhile_casts_suspicion_on_nobody() -> None:
    world = World()
    world.open()
    world.meet(A)
    wrong = b"\xff" * PIECE_DIGEST_SIZE
    world.hear(protocol.TableNews(*KEY, to_bitfield(ALL, LAYOUT.count), wrong * LAYOUT.count))
    asked = [piece for _, piece in world.requests()]
    for piece in asked[:2]:
        world.machine.exchange.piece(A, wire.Piece(*KEY, piece, LAYOUT.length(piece)), bytearray(), world.now)
    world.machine.corrupt(KEY, asked[0], A, wrong, world.now)
    world.table()
    world.machine.corrupt(KEY, asked[1], A, wrong, world.now)
    assert world.machine.sought[KEY].suspects == {}
    world.machine.exchange.due()
    for peer, piece in (again := world.requests()):
        world.give(peer, piece)
    assert {piece for _, piece in [*again, *world.requests()]} >= set(asked[:2]), "it is asked for them again"


def test_a_neighbours_piece_that_the_supernode_says_otherwise_of_is_fetched_again() -> None:
    world = World()
    world.open()
    world.meet(A)
    world.grant(1, 0, 1)
    (fetch,) = world.look(Fetch)
    world.bring(fetch.stream, 0)
    world.table(0b110)
    world.collect()
    world.give(A, 1)
    world.give(A, 2)
    other = b"\xff" * PIECE_DIGEST_SIZE
    world.hear(protocol.TableNews(*KEY, to_bitfield(0b011, LAYOUT.count), other * 2))
    (discard,) = world.look(Discard)
    assert (discard.pieces, world.pieces.there) == (0b010, 0b101)
    assert world.machine.sought[KEY].table[1] == other


def test_a_part_of_a_table_is_void() -> None:
    world = World()
    world.open()
    world.meet(A)
    world.table()
    world.collect()
    for piece in (0, 1):
        world.give(A, piece)
    world.hear(protocol.Void(*KEY, to_bitfield(0b010, LAYOUT.count)))
    assert world.pieces.there == 0b001
    assert world.machine.sought[KEY].book.checkable == ALL & ~0b010


# --- origins ------------------------------------------------------------------------------------------------------


def test_without_a_supernode_the_blob_is_fetched_whole() -> None:
    world = World(supernode=False)
    world.open()
    assert [(fetch.first, fetch.end) for fetch in world.look(Fetch)] == [(0, LAYOUT.count)]


def test_a_lease_reports_its_pieces_in_order() -> None:
    world = World()
    world.open()
    world.grant(7, 4, 3)
    (fetch,) = world.look(Fetch)
    for piece in (5, 4, 6):
        world.machine.sourcing.fetched(fetch.stream, piece, bytearray())
    for piece in (5, 4, 6):
        world.machine.landed(KEY, piece, digest(piece), fetch.stream, world.now)
    assert world.told(protocol.Progress) == [protocol.Progress(7, piece, digest(piece)) for piece in (4, 5, 6)]


def test_of_a_piece_that_comes_slowly_the_supernode_is_told_that_it_comes() -> None:
    world = World()
    world.open()
    world.grant(7, 4, 3)
    (fetch,) = world.look(Fetch)
    for _ in range(10):
        world.wait(0.5)
        world.machine.sourcing.received(fetch.stream, world.now)
    told = world.told(protocol.Progress)
    assert 3 <= len(told) <= 5
    assert set(told) == {protocol.Progress(7, 4, b"")}
    world.wait(2.5)
    assert len(world.told(protocol.Progress)) <= 1  # of what came, and then it is silent


def test_with_a_limit_less_is_asked_for_at_a_time() -> None:
    asked = {}
    for limit in (0.0, 4 * LAYOUT.piece_size, 1.0):
        world = World()
        world.machine.exchange.requests.limit = limit
        world.open()
        world.meet(A, B)
        world.table()
        asked[limit] = len(world.requests())
    assert asked == {0.0: 12, 4 * LAYOUT.piece_size: 2, 1.0: 2}


@pytest.mark.parametrize("error", [OriginDenied("403"), SizeDiffers("another size", 5)])
def test_one_places_refusal_is_told_to_those_who_named_it_and_the_blob_comes_from_another(error: Exception) -> None:
    world = World(supernode=False)
    world.open(HERE, THERE)
    (fetch,) = world.look(Fetch)
    assert fetch.location == HERE
    world.machine.fetch_ended(fetch.stream, error, world.now)
    world.collect()
    said = list(world.said)
    assert [each.location for each in said if isinstance(each, FailReaders)] == [HERE]
    assert [each.location for each in said if isinstance(each, Fetch)] == [THERE]
    assert not any(isinstance(each, Fail) for each in said)


def test_a_refusal_is_asked_again_for_a_client_that_comes_later() -> None:
    world = World()
    world.open(HERE)
    world.meet(A, have=0b1)
    world.table(0b1)
    world.grant(1, 2, 1)
    (fetch,) = world.look(Fetch)
    world.machine.fetch_ended(fetch.stream, OriginDenied("403"), world.now)
    world.collect()
    place = world.machine.sought[KEY].places[HERE]
    world.machine.demand(KEY, HERE, world.now + 0.5)
    assert world.machine.sought[KEY].places[HERE] is place
    world.look(Tell)
    world.machine.demand(KEY, HERE, world.now + 1.5)
    assert world.machine.sought[KEY].places[HERE].is_usable(world.now)
    assert len(world.told(protocol.Open)) == 1


def test_the_last_places_refusal_ends_the_blob_with_its_own_error() -> None:
    world = World(supernode=False)
    world.open(HERE)
    (fetch,) = world.look(Fetch)
    error = OriginDenied("403")
    world.machine.fetch_ended(fetch.stream, error, world.now)
    assert [fail.error for fail in world.look(Fail)] == [error]


@pytest.mark.parametrize("supernode", [True, False])
def test_an_origin_that_says_nothing_ends_the_download_in_time_however_many_leases_come(supernode: bool) -> None:
    world = World(supernode=supernode)
    world.open()
    world.machine.asks(KEY, 1, None, world.now)
    world.machine.reading(KEY, 1, 0, world.now)
    lease = 0
    while KEY in world.machine.sought:
        assert world.now < 5.0
        if supernode and not world.machine.sourcing.streams:
            lease += 1
            world.grant(lease, 0, 4)
        world.wait(0.25)
    assert [fail.blob for fail in world.look(Fail)] == [KEY]


def test_an_origin_that_breaks_off_is_asked_again_for_the_rest() -> None:
    world = World(supernode=False)
    world.open()
    (fetch,) = world.look(Fetch)
    world.bring(fetch.stream, 0, 1, 2)
    world.machine.fetch_ended(fetch.stream, OriginUnavailable("broke off"), world.now)
    world.wait(1.0)
    assert [(again.first, again.end) for again in world.look(Fetch)] == [(3, LAYOUT.count)]


def test_an_origin_without_ranges_is_read_from_the_beginning() -> None:
    world = World(supernode=False)
    world.open(have=0b1)
    (fetch,) = world.look(Fetch)
    assert fetch.first == 1
    world.machine.fetch_ended(fetch.stream, NoRange("whole"), world.now)
    assert [(again.first, again.end) for again in world.look(Fetch)] == [(0, LAYOUT.count)]


# --- nobody helps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["silence", "busy"])
def test_for_a_reader_that_starves_a_lease_is_asked_and_then_the_origin(answer: str) -> None:
    world = World()
    world.open()
    world.meet(A)
    world.table()
    world.machine.reading(KEY, 1, 0, world.now)
    starved, fetched_at = [], None
    while world.now < 5.0 and fetched_at is None:
        world.wait(0.25)
        said, world.said = list(world.said), []
        if answer == "busy":
            world.turn_away(A, said)
        for command in said:
            if isinstance(command, Tell) and isinstance(command.message, protocol.Starved):
                starved.append(world.now)
            if isinstance(command, Fetch):
                assert command.first == 0
                fetched_at = world.now
    assert starved
    assert starved[0] <= 3.6
    assert fetched_at is not None and fetched_at <= 4.8


def test_all_readers_that_starve_are_told_of_early_and_each_second() -> None:
    world = World()
    world.open()
    world.meet(A, have=0b1)
    world.table()
    world.machine.reading(KEY, 1, 3, world.now)
    world.machine.reading(KEY, 2, 9, world.now)
    told = {}
    while world.now < 3.0:
        world.wait(0.25)
        for message in world.told(protocol.Starved):
            told[world.now] = message
    both = protocol.Starved(*KEY, to_bitfield(1 << 3 | 1 << 9, LAYOUT.count))
    assert list(told.values()) == [both, both]
    first, second = told
    assert first <= 1.3
    assert second - first <= 1.3


def test_leases_are_asked_for_over_all_that_neighbours_claim_and_do_not_give() -> None:
    world = World()
    world.open()
    world.meet(A)
    world.table()
    world.machine.reading(KEY, 1, 0, world.now)
    most = 0
    while world.now < 6.0:
        world.wait(0.25)
        said, world.said = list(world.said), []
        world.turn_away(A, said)
        for command in said:
            if isinstance(command, Tell) and isinstance(command.message, protocol.Starved):
                most = max(most, pieces_of(command.message.pieces, LAYOUT).bit_count())
    assert most > 1


@pytest.mark.parametrize("answer", ["absent", "other bytes"])
def test_who_gives_nothing_of_what_it_claims_is_doubted_at_once(answer: str) -> None:
    world = World()
    world.open()
    world.meet(A)
    world.table()
    world.machine.reading(KEY, 1, 0, world.now)
    told: protocol.Starved | None = None
    while told is None and world.now < 5.0:
        world.wait(0.25)
        said, world.said = list(world.said), []
        for command in said:
            if isinstance(command, Send) and isinstance(command.message, wire.Request):
                piece = command.message.piece
                if answer == "absent":
                    world.machine.said(A, wire.Absent(*KEY, piece), world.now)
                else:
                    message = wire.Piece(*KEY, piece, LAYOUT.length(piece))
                    world.machine.exchange.piece(A, message, bytearray(), world.now)
                    world.machine.corrupt(KEY, piece, A, digest(piece), world.now)
            if isinstance(command, Tell) and isinstance(command.message, protocol.Starved):
                told = command.message
    assert told is not None and world.now <= 1.5
    assert pieces_of(told.pieces, LAYOUT) == ALL, "leases are asked for over all that it claimed"


def test_after_the_supernode_is_lost_neighbours_fetch_different_parts() -> None:
    worlds = [World(seed=seed) for seed in range(4)]
    names = [PeerId(f"{place:032x}") for place in range(4)]
    for place, world in enumerate(worlds):
        world.open()
        world.meet(*(name for name in names if name != names[place]), have=0)
        world.collect()
        world.machine.lost(world.now)
    fetched: list[int] = []
    for _ in range(16):
        for place, world in enumerate(worlds):
            world.wait(0.25)
            said, world.said = list(world.said), []
            for command in said:
                if isinstance(command, Fetch):
                    fetched += range(command.first, command.end)
                if isinstance(command, Send):
                    for other in command.peers:
                        if isinstance(command.message, wire.Coming | wire.Have):
                            receiver = worlds[names.index(other)]
                            receiver.machine.said(names[place], command.message, receiver.now)
    assert len(fetched) == len(set(fetched)) > 8


def test_what_comes_without_a_lease_is_told_to_the_next_supernode() -> None:
    world = World()
    world.open()
    world.meet(A, have=0)
    world.machine.lost(world.now)
    world.wait(3.0)
    fetch, *_ = world.look(Fetch)
    world.machine.joined(5.0, world.now)
    (opened,) = world.told(protocol.Open)
    assert isinstance(opened, protocol.Open)
    coming = int.from_bytes(opened.blobs[0].coming, "little")
    assert coming & run_of(fetch.first, fetch.end - fetch.first) == run_of(fetch.first, fetch.end - fetch.first)


def test_a_blob_that_the_supernode_refuses_comes_without_it_and_others_go_on() -> None:
    world = World()
    world.open()
    world.hear(protocol.BlobRefused(*KEY, "no room"))
    world.wait(0.25)
    assert world.look(Fetch)


# --- neighbours that go -------------------------------------------------------------------------------------------


def test_a_neighbour_that_is_gone_is_dialled_again_and_others_are_asked_for() -> None:
    world = World()
    world.open()
    world.meet(A)
    world.look(Dial)
    world.machine.gone(A, world.now)
    world.wait(3.0)
    said, world.said = list(world.said), []
    assert [dial.peer for dial in said if isinstance(dial, Dial)]
    sought = [each.message for each in said if isinstance(each, Tell) and isinstance(each.message, protocol.Seek)]
    assert sought[0] == protocol.Seek([BlobRef(*KEY)])


def test_a_failed_blob_is_withdrawn_from_everybody() -> None:
    world = World()
    world.open()
    world.meet(A)
    world.grant(1, 0, 4)
    world.look(Send)
    world.machine.fail(KEY, OriginUnavailable("over"))
    world.collect()
    said = list(world.said)
    assert [each.message for each in said if isinstance(each, Send) and isinstance(each.message, wire.Part)]
    assert any(isinstance(each, StopFetch) for each in said)
    assert protocol.Close([BlobRef(*KEY)]) in [each.message for each in said if isinstance(each, Tell)]
    assert not world.machine.sourcing.streams


def test_a_piece_that_lands_after_its_blob_has_failed_changes_nothing() -> None:
    world = World()
    world.open()
    world.grant(1, 0, 4)
    (fetch,) = world.look(Fetch)
    world.machine.sourcing.fetched(fetch.stream, 0, bytearray())
    (land,) = world.look(Land)
    world.machine.fail(KEY, OriginUnavailable("over"))
    assert world.machine.landed(KEY, 0, digest(0), land.source, world.now) is False
    assert not world.machine.sourcing.fetched(fetch.stream, 1, bytearray())[1]


# --- ranges -------------------------------------------------------------------------------------------------------

COUNT = LAYOUT.count


def test_of_a_cold_blob_the_asked_range_is_fetched_first_and_then_the_rest() -> None:
    world = World(supernode=False)
    world.open_for((12, 13))
    (fetch,) = world.look(Fetch)
    assert (fetch.first, fetch.end) == (12, 13)
    world.wait(1.0)
    assert world.look(Fetch) == []  # the rest does not share the link with it
    world.bring(fetch.stream, 12)
    world.machine.fetch_ended(fetch.stream, None, world.now)
    (rest,) = world.look(Fetch)
    assert rest.first == 13


@pytest.mark.parametrize("behind", [Behind.REST, Behind.IMAGE, Behind.NOTHING])
def test_what_is_fetched_behind_a_range(behind: Behind) -> None:
    world = World(supernode=False)
    world.open_for((12, 13), behind=behind)
    fetched: list[int] = []
    for _ in range(30):
        for fetch in world.look(Fetch):
            pieces = [
                piece for piece in range(fetch.first, fetch.end) if world.pieces.leased_to(fetch.stream) >> piece & 1
            ]
            assert not set(pieces) & set(fetched)
            fetched += pieces
            world.bring(fetch.stream, *pieces)
            world.machine.reading(KEY, 1, 12, None)
            world.machine.fetch_ended(fetch.stream, None, world.now)
        if world.pieces.missing:
            world.wait(0.25)
    assert fetched[0] == 12
    assert sorted(fetched) == ([12] if behind is Behind.NOTHING else list(range(COUNT)))


def test_a_range_far_ahead_of_a_stream_is_fetched_beside_it_and_left_out_there() -> None:
    world = World(supernode=False)
    world.open()
    (whole,) = world.look(Fetch)
    assert (whole.first, whole.end) == (0, COUNT)
    world.ask(1, pieces_asked((12, 14)))
    (near,) = world.look(Fetch)
    assert (near.first, near.end) == (12, 14)
    world.bring(whole.stream, *range(11))
    assert world.machine.sourcing.fetched(whole.stream, 11, bytearray()) == (True, False)
    world.machine.fetch_ended(whole.stream, None, world.now)
    assert spans_of(world.look(Fetch)) == [(14, COUNT)]  # opened again behind the range


def test_a_range_that_a_stream_reaches_soon_waits_for_it() -> None:
    world = World(supernode=False)
    world.open()
    world.look(Fetch)
    world.ask(1, pieces_asked((2, 3)))
    assert world.look(Fetch) == []


def test_a_whole_lease_of_a_lone_peer_lets_nobody_wait_for_a_far_range() -> None:
    world = World()
    world.open_for((12, 13))
    world.grant(1, 0, COUNT)
    assert spans_of(world.look(Fetch)) == [(0, COUNT), (12, 13)]


def test_a_range_that_nobody_gives_is_told_to_the_supernode_at_once_and_once() -> None:
    world = World()
    world.open_for((12, 14))
    world.hear(protocol.Handout(*KEY, []))
    assert [to_set(message) for message in world.told(protocol.Starved)] == [run_of(12, 2)]
    world.machine.reading(KEY, 1, 12, world.now)
    world.wait(0.5)
    assert world.told(protocol.Starved) == []
    world.grant(1, 12, 2)
    assert spans_of(world.look(Fetch)) == [(12, 14)]


def to_set(message: protocol.FromPeer) -> int:
    assert isinstance(message, protocol.Starved)
    return pieces_of(message.pieces, LAYOUT)


def test_a_reader_of_several_ranges_has_the_next_ones_fetched_together_and_others_after() -> None:
    world = World(supernode=False)
    world.open_for(*((piece, piece + 1) for piece in range(1, 14, 2)), behind=Behind.NOTHING)
    first = world.look(Fetch)
    assert spans_of(first) == [(1, 2), (3, 4), (5, 6), (7, 8)]
    for fetch in first:
        world.bring(fetch.stream, fetch.first)
        world.machine.fetch_ended(fetch.stream, None, world.now)
    world.machine.reading(KEY, 1, 9, world.now)
    assert {9} <= {fetch.first for fetch in world.look(Fetch)} <= {9, 11, 13}


def test_streams_for_ranges_are_bounded_and_the_next_one_comes_when_one_ends() -> None:
    world = World(supernode=False)
    world.open_for((0, 1), behind=Behind.NOTHING)
    for reader in range(2, 12):
        world.ask(reader, pieces_asked((reader, reader + 1), behind=Behind.NOTHING))
    fetches = world.look(Fetch)
    assert len(fetches) <= 9
    done = set()
    while fetches:
        for fetch in fetches:
            for piece in range(fetch.first, fetch.end):
                done.add(piece)
                world.bring(fetch.stream, piece)
            world.machine.fetch_ended(fetch.stream, None, world.now)
        fetches = world.look(Fetch)
    assert done == {0, *range(2, 12)}


def test_an_origin_without_ranges_is_read_whole_for_a_range() -> None:
    world = World(supernode=False)
    world.open_for((12, 13), behind=Behind.NOTHING)
    (fetch,) = world.look(Fetch)
    world.machine.fetch_ended(fetch.stream, NoRange("no"), world.now)
    assert spans_of(world.look(Fetch)) == [(0, COUNT)]


def test_a_peer_that_wants_ranges_alone_says_so_until_somebody_wants_all() -> None:
    world = World()
    world.open_for((12, 13), behind=Behind.NOTHING)
    world.ask(2, pieces_asked((12, 13), behind=Behind.NOTHING))
    world.ask(3, None)
    said = world.told(protocol.Open)
    assert [message.blobs[0].on_demand for message in said if isinstance(message, protocol.Open)] == [True, False]


def test_pieces_that_nobody_asked_for_are_not_taken_from_neighbours_nor_leases() -> None:
    world = World()
    world.open_for((12, 13), behind=Behind.NOTHING)
    world.meet(A)
    world.table()
    assert world.requests() == [(A, 12)]
    world.grant(1, 0, 4)
    assert world.look(Fetch) == []


def test_asked_ranges_come_from_neighbours_before_the_rest() -> None:
    world = World()
    world.open_for((3, 4), (12, 14))
    world.meet(A)
    world.table()
    asked = [piece for _, piece in world.requests()]
    assert asked[0] == 3
    assert set(asked[:3]) == {3, 12, 13}


def test_a_partial_blob_that_nobody_reads_is_put_away() -> None:
    world = World(supernode=False)
    world.open_for((12, 13), behind=Behind.NOTHING)
    (fetch,) = world.look(Fetch)
    world.bring(fetch.stream, 12)
    world.machine.fetch_ended(fetch.stream, None, world.now)
    world.machine.reading(KEY, 1, 12, None)
    world.wait(20.0)
    assert world.look(Park) == []  # it is being read
    world.machine.left(KEY, 1, world.now)
    world.wait(5.0)
    assert world.look(Park) == []
    world.wait(10.0)
    assert world.look(Park) == [Park(KEY)]
    assert KEY not in world.machine.sought


def test_where_another_blob_needs_the_room_what_nobody_reads_is_put_away_at_once() -> None:
    world = World(supernode=False)
    world.open_for((12, 13), behind=Behind.NOTHING)
    (fetch,) = world.look(Fetch)
    world.bring(fetch.stream, 12)
    world.machine.make_room()
    assert world.look(Park) == []
    world.machine.left(KEY, 1, world.now)
    world.machine.make_room()
    assert world.look(Park) == [Park(KEY)]


def test_a_reader_that_leaves_cancels_nothing() -> None:
    world = World(supernode=False)
    world.open_for((4, COUNT), behind=Behind.NOTHING)
    (fetch,) = world.look(Fetch)
    world.bring(fetch.stream, 4)
    world.machine.left(KEY, 1, world.now)
    world.wait(1.0)
    assert world.look(StopFetch) == []
    assert world.pieces.leased == run_of(5, COUNT - 5)


# --- how long clients wait ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("supernode", [True, False])
def test_a_client_without_a_byte_is_answered_with_the_origins_error_in_time(supernode: bool) -> None:
    world = World(supernode=supernode)
    world.open()
    world.ask(1, None)
    world.grant(1, 0, COUNT)
    world.wait(2.0)
    world.ask(2, None)
    world.wait(2.0)
    assert world.look(Answer) == []
    world.wait(0.75)
    (answer,) = world.look(Answer)
    assert (answer.blob, answer.reader) == (KEY, 1)
    assert "docker.io sent nothing for 3 s" in str(answer.error)
    world.machine.left(KEY, 1, world.now)
    world.wait(1.5)
    assert KEY in world.machine.sought
    world.wait(0.5)
    (fail,) = world.look(Fail)  # nobody waits now, and who comes next begins anew
    assert "docker.io sent nothing for 3 s" in str(fail.error)


def test_what_a_client_has_waited_before_it_reads_counts() -> None:
    world = World(supernode=False)
    world.now = 3.0
    world.open()
    world.machine.asks(KEY, 1, None, world.now, since=0.0)
    world.wait(1.5)  # that it was opened a moment ago does not count as a sign of life
    assert len(world.look(Fail)) == 1


def test_a_client_of_a_blob_that_is_being_verified_begins_and_the_blob_stays() -> None:
    world = World(supernode=False)
    world.open_for((COUNT - 1, COUNT), have=ALL)
    world.wait(5.0)
    assert world.look(Answer) == [Answer(KEY, 1, None)]
    assert KEY in world.machine.sought


def test_a_client_whose_blob_moves_begins_without_its_first_byte() -> None:
    world = World(supernode=False)
    world.open()
    world.ask(1, None)
    (fetch,) = world.look(Fetch)
    for _ in range(20):
        world.machine.sourcing.received(fetch.stream, world.now)
        world.wait(0.25)
    assert world.look(Answer) == [Answer(KEY, 1, None)]


def test_a_client_that_was_given_something_waits_on_for_an_origin_that_comes_back() -> None:
    world = World(supernode=False)
    world.open()
    world.ask(1, None)
    (fetch,) = world.look(Fetch)
    world.bring(fetch.stream, 0)
    world.machine.reading(KEY, 1, 0, None)
    world.machine.reading(KEY, 1, 1, world.now)
    world.ask(2, None)
    world.machine.fetch_ended(fetch.stream, OriginUnavailable("down"), world.now)
    until = world.now + 15.0
    while world.now < until:
        for each in world.look(Fetch):
            world.machine.fetch_ended(each.stream, OriginUnavailable("down"), world.now)
        world.wait(0.25)
    assert KEY in world.machine.sought
    while not (fetches := world.look(Fetch)):
        world.wait(0.25)
    (again,) = fetches
    assert again.first == 1
    world.bring(again.stream, 1)
    assert world.pieces.there == 3


def test_an_origin_that_only_begins_to_bring_a_piece_does_not_keep_its_blob_for_ever() -> None:
    world = World(supernode=False)
    world.open()
    world.ask(1, None)
    world.machine.reading(KEY, 1, 0, None)
    world.machine.reading(KEY, 1, 0, world.now)
    while KEY in world.machine.sought:
        assert world.now < 26.0
        for fetch in world.look(Fetch):
            world.machine.sourcing.received(fetch.stream, world.now)
            world.machine.fetch_ended(fetch.stream, OriginUnavailable("broke off"), world.now)
        world.wait(0.25)


def test_a_blob_that_never_moves_again_ends() -> None:
    world = World(supernode=False)
    world.open()
    world.ask(1, None)
    (fetch,) = world.look(Fetch)
    world.bring(fetch.stream, 0)
    world.machine.reading(KEY, 1, 0, None)
    world.machine.reading(KEY, 1, 1, world.now)
    world.wait(26.0)
    assert [fail.blob for fail in world.look(Fail)] == [KEY]
