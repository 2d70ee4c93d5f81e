"""The pure decisions of the exchange: picking, the books of requests, upload slots, image plans."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.picker import WINDOW, BlobBook, Picker
from peer.plans import ImagePlans
from peer.requests import START_DEPTH, WIDE_DEPTH, Requests
from peer.uploads import QUEUED_REQUESTS, UPLOAD_SLOTS, Upload, UploadSlots
from shoal.descriptor import BlobKind, Descriptor
from shoal.digest import Digest
from shoal.pieces import MIB, PieceLayout, run_of
from shoal.reference import Location
from supernode.protocol import PeerId

DIGEST, OTHER = Digest.of(b"blob"), Digest.of(b"other")
PEERS = [PeerId(name) for name in "abcdefgh"]
A, B, C, *_ = PEERS


def picker(size: int = 20 * MIB, seed: int = 1) -> tuple[Picker, BlobBook]:
    layout = PieceLayout.of(size)
    picker = Picker(random.Random(seed))
    book = picker.books[DIGEST] = BlobBook(layout, layout.all, known=layout.all)
    return picker, book


def free(_: PeerId) -> float:
    return 0.0


def test_the_rarest_piece_comes_first() -> None:
    chooser, book = picker()
    book.held(A, book.layout.all)
    book.held(B, book.layout.all & ~(1 << 7))
    choice = chooser.choose([A, B], free)
    assert choice is not None
    assert (choice.peer, choice.piece) == (A, 7)


def test_what_a_reader_waits_for_comes_first_then_the_rarest_of_those_ahead_of_it() -> None:
    chooser, book = picker()
    book.held(A, book.layout.all)
    book.held(B, run_of(0, 60) & ~run_of(21, 3))
    book.readers = {1: 20}
    choice = chooser.choose([A, B], free)
    assert choice is not None
    assert choice.piece == 20
    book.pending = 1 << 20
    choice = chooser.choose([A, B], free)
    assert choice is not None
    assert 21 <= choice.piece < 24
    book.pending = run_of(20, 4)
    choice = chooser.choose([A, B], free)
    assert choice is not None
    assert 24 <= choice.piece < 20 + WINDOW


def test_a_piece_that_cannot_be_checked_yet_is_not_asked_for() -> None:
    chooser, book = picker()
    book.held(A, book.layout.all)
    book.known = 0b100
    choice = chooser.choose([A], free)
    assert choice is not None
    assert choice.piece == 2


def test_nobody_is_asked_for_what_it_does_not_have() -> None:
    chooser, book = picker()
    book.held(A, 0b1)
    book.pending = 0b1
    book.held(B, 0)
    assert chooser.choose([A, B], free) is None


def test_ties_are_broken_at_random() -> None:
    chosen = set()
    for seed in range(40):
        chooser, book = picker(seed=seed)
        book.held(A, book.layout.all)
        book.held(B, 0)
        choice = chooser.choose([A, B], free)
        assert choice is not None
        chosen.add(choice.piece)
    assert len(chosen) > 15


def test_pieces_come_in_order_where_every_neighbour_is_a_seed() -> None:
    chooser, book = picker()
    book.held(A, book.layout.all)
    book.held(B, book.layout.all)
    book.pending = 0b11
    choice = chooser.choose([A, B], free)
    assert choice is not None
    assert choice.piece == 2


def test_of_several_holders_the_one_of_least_cost_is_asked() -> None:
    chooser, book = picker()
    for peer in PEERS:
        book.held(peer, book.layout.all)
    costs = dict.fromkeys(PEERS, 5.0) | {C: 1.0}
    choice = chooser.choose(PEERS, costs.__getitem__)
    assert choice is not None
    assert choice.peer == C


def test_the_endgame_asks_one_more_neighbour_only_when_all_else_is_asked_for() -> None:
    chooser, book = picker()
    book.held(A, book.layout.all)
    book.held(B, book.layout.all)
    book.missing, book.pending = 0b11, 0b01
    assert chooser.choose_again([A, B], free, lambda *_: A) is None
    book.pending = 0b11
    choice = chooser.choose_again([A, B], free, lambda *_: A)
    assert choice is not None
    assert choice.peer == B
    assert chooser.choose_again([A, B], free, lambda *_: None) is None


def test_a_request_is_late_when_it_takes_twice_as_long_as_usual_and_asked_of_one_alone() -> None:
    requests = Requests()
    requests.sent(A, DIGEST, 0, 0.0)
    requests.done(A, DIGEST, 0, MIB, 1.0)
    requests.sent(A, DIGEST, 1, 1.0)
    assert requests.late(DIGEST, 1, 2.9) is None
    assert requests.late(DIGEST, 1, 3.1) == A
    requests.sent(B, DIGEST, 1, 3.1)
    assert requests.late(DIGEST, 1, 9.0) is None
    assert requests.late(DIGEST, 2, 9.0) is None


@given(st.lists(st.tuples(st.sampled_from(PEERS), st.integers(0, (1 << 20) - 1), st.sampled_from("hgp"))))
def test_rarity_counts_the_holders_of_each_piece(steps: list[tuple[PeerId, int, str]]) -> None:
    layout = PieceLayout.of(5 * MIB)
    book, model = BlobBook(layout, layout.all), dict[PeerId, int]()
    for peer, pieces, step in steps:
        if step == "h":
            book.held(peer, pieces)
            model[peer] = pieces
        elif step == "g":
            book.gained(peer, pieces)
            model[peer] = model.get(peer, 0) | pieces
        else:
            book.parted(peer)
            model.pop(peer, None)
    for piece in range(layout.count):
        count = sum(pieces >> piece & 1 for pieces in model.values())
        assert book.rarity(1 << piece) == (count, 1 << piece)


@given(st.lists(st.tuples(st.sampled_from(PEERS), st.integers(0, 5), st.sampled_from("sdfx")), max_size=80))
def test_the_books_of_requests_balance(steps: list[tuple[PeerId, int, str]]) -> None:
    requests, model = Requests(), set[tuple[PeerId, int]]()
    for now, (peer, piece, step) in enumerate(steps):
        if step == "s" and (peer, piece) not in model:
            requests.sent(peer, DIGEST, piece, float(now))
            model.add((peer, piece))
        elif step == "d" and (peer, piece) in model:
            others = requests.done(peer, DIGEST, piece, MIB, float(now))
            assert set(others) == {other for other, asked in model if asked == piece and other != peer}
            model = {(other, asked) for other, asked in model if asked != piece}
        elif step == "f":
            alone = (peer, piece) in model and sum(asked == piece for _, asked in model) == 1
            assert requests.forget(peer, DIGEST, piece) is alone
            model.discard((peer, piece))
        elif step == "x":
            requests.drop(peer)
            model = {(other, asked) for other, asked in model if other != peer}
        assert requests.count == len(model)
        load = Counter(peer for peer, _ in model)
        assert all(requests.load(peer) == load[peer] for peer in PEERS)


def test_requests_are_spread_over_all_sources() -> None:
    requests = Requests()
    for sources, depth, most in ((0, START_DEPTH, START_DEPTH), (1, START_DEPTH, START_DEPTH), (15, START_DEPTH, 1)):
        requests.sources = sources
        assert (requests.depth, requests.most_at_one) == (depth, most)


def test_with_many_neighbours_more_requests_are_outstanding() -> None:
    requests = Requests()
    depths = []
    for requests.sources in (15, 20, 50, 100):
        depths.append(requests.depth)
    assert depths[0] == START_DEPTH < depths[1] < depths[2] == depths[3] == WIDE_DEPTH


def test_a_neighbour_that_is_silent_for_long_is_stuck_and_one_that_sends_is_not() -> None:
    requests = Requests()
    requests.sent(A, DIGEST, 0, 0.0)
    requests.sent(B, DIGEST, 1, 0.0)
    requests.heard(B, 3.5)
    assert requests.stuck(1.0) == []
    assert requests.stuck(4.0) == [A]
    assert requests.drop(A) == [(DIGEST, 0)]


def test_a_busy_neighbour_rests_until_it_calls() -> None:
    requests = Requests()
    requests.busy(A, 0.0)
    assert requests.takers([A, B], 0.1) == [B]
    requests.ready(A)
    assert requests.takers([A, B], 0.1) == [A, B]
    requests.busy(A, 0.0)
    assert requests.takers([A, B], 1.0) == [A, B]


def test_a_neighbour_with_its_share_of_requests_takes_no_more() -> None:
    requests = Requests()
    requests.sources = START_DEPTH
    requests.sent(A, DIGEST, 0, 0.0)
    assert requests.takers([A, B], 0.0) == [B]


def test_so_many_uploads_at_a_time_and_busy_beyond_what_may_wait() -> None:
    slots = UploadSlots(random.Random(1))
    answers = [slots.request(Upload(PEERS[piece % 8], DIGEST, piece)) for piece in range(40)]
    assert answers.count(True) == UPLOAD_SLOTS == slots.serving
    assert answers.count(None) <= QUEUED_REQUESTS
    assert False in answers


def test_a_lone_asker_may_queue() -> None:
    slots = UploadSlots(random.Random(1))
    answers = [slots.request(Upload(A, DIGEST, piece)) for piece in range(UPLOAD_SLOTS + QUEUED_REQUESTS + 1)]
    assert answers == [True] * UPLOAD_SLOTS + [None] * QUEUED_REQUESTS + [False]
    following, _ = slots.finished(Upload(A, DIGEST, 0))
    assert following == Upload(A, DIGEST, UPLOAD_SLOTS)


@pytest.mark.parametrize("seed", range(4))
def test_when_a_slot_frees_one_of_those_turned_away_is_told(seed: int) -> None:
    slots = UploadSlots(random.Random(seed), queued=0)
    for piece in range(UPLOAD_SLOTS):
        slots.request(Upload(A, DIGEST, piece))
    assert slots.request(Upload(B, DIGEST, 0)) is False
    assert slots.request(Upload(C, DIGEST, 0)) is False
    told = [slots.finished(Upload(A, DIGEST, piece)) for piece in range(3)]
    assert told[2] == (None, None)
    assert set(told[:2]) == {(None, B), (None, C)}


def test_those_turned_away_are_not_told_in_the_order_in_which_they_asked() -> None:
    first = set()
    for seed in range(20):
        slots = UploadSlots(random.Random(seed), queued=0)
        for piece in range(UPLOAD_SLOTS):
            slots.request(Upload(A, DIGEST, piece))
        for peer in (B, C):
            slots.request(Upload(peer, DIGEST, 0))
        first.add(slots.finished(Upload(A, DIGEST, 0))[1])
    assert first == {B, C}


@given(st.lists(st.tuples(st.sampled_from(PEERS), st.integers(0, 9), st.sampled_from("rrrfcd")), max_size=120))
def test_slots_are_never_exceeded_and_never_lost(steps: list[tuple[PeerId, int, str]]) -> None:
    slots, serving = UploadSlots(random.Random(1)), set[Upload]()
    for peer, piece, step in steps:
        upload = Upload(peer, DIGEST, piece)
        if step == "r" and slots.request(upload):
            serving.add(upload)
        elif step == "f" and upload in serving:
            serving.discard(upload)
            following, _ = slots.finished(upload)
            serving |= {following} if following else set()
        elif step == "c":
            slots.cancel(upload)
        elif step == "d":
            serving = {each for each in serving if each.peer != peer} | set(slots.drop(peer)[0])
        assert slots.serving == len(serving) <= UPLOAD_SLOTS


def test_when_a_peer_leaves_its_places_go_to_those_turned_away() -> None:
    slots = UploadSlots(random.Random(1), queued=0)
    for piece in range(UPLOAD_SLOTS):
        slots.request(Upload(A, DIGEST, piece))
    for peer in (B, C):
        slots.request(Upload(peer, DIGEST, 0))
    started, invited = slots.drop(A)
    assert (started, set(invited)) == ([], {B, C})


def layers(*names: str) -> list[Descriptor]:
    return [Descriptor(Digest.of(name.encode()), 10) for name in names]


AT, ELSEWHERE = Location.parse("docker.io", "library/a"), Location.parse("quay.io", "a/b")


def test_an_image_is_opened_from_the_first_blob_that_is_asked_for() -> None:
    plans, (config, one, two, three) = ImagePlans(), layers("config", "1", "2", "3")
    plans.expect([config, one, two, three], AT)
    assert plans.following(two.digest, AT) == [three]
    assert plans.following(config.digest, AT) == [one, two, three]
    assert plans.following(two.digest, ELSEWHERE) == []
    assert plans.known(one.digest) == one


def test_the_manifests_of_an_index_are_not_opened_ahead() -> None:
    plans = ImagePlans()
    children = [Descriptor(Digest.of(name), 10, "", BlobKind.MANIFEST) for name in (b"1", b"2")]
    plans.expect(children, AT)
    assert plans.following(children[0].digest, AT) == []
    assert plans.known(children[1].digest) == children[1]
