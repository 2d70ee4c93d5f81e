"""Which piece is asked of whom."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from peer.picker import WINDOW, BlobBook, Picker
from peer.piecemap import PieceMap, StreamId
from peer.requests import Requests
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.pieces import MIB, PieceLayout, PieceSet, iterate, run_of
from supernode.protocol import PeerId

KEY = BlobKey(Digest.of(b"blob"), 20 * MIB)
PEERS = [PeerId(name) for name in "abcdefgh"]
A, B, C, *_ = PEERS


def book_of(size: int) -> BlobBook:
    layout = PieceLayout.of(size)
    return BlobBook(PieceMap(layout, Requests()), checkable=layout.all)


def picker(seed: int = 1) -> tuple[Picker, BlobBook]:
    picker = Picker(random.Random(seed))
    book = picker.books[KEY] = book_of(KEY.size)
    return picker, book


def underway(book: BlobBook, pieces: PieceSet) -> None:
    """These pieces are asked of a neighbour that is no holder here."""
    for piece in iterate(pieces):
        book.pieces.ask(piece, PeerId("z"), 0.0)


def free(_: PeerId) -> float:
    return 0.0


def test_the_rarest_piece_comes_first() -> None:
    chooser, book = picker()
    book.held(A, book.pieces.layout.all)
    book.held(B, book.pieces.layout.all & ~(1 << 7))
    choice = chooser.choose([A, B], free)
    assert choice is not None
    assert (choice.peer, choice.piece) == (A, 7)


def test_what_a_reader_waits_for_comes_first_then_the_rarest_of_those_ahead_of_it() -> None:
    chooser, book = picker()
    book.held(A, book.pieces.layout.all)
    book.held(B, run_of(0, 60) & ~run_of(21, 3))
    book.readers = {1: 20}
    choice = chooser.choose([A, B], free)
    assert choice is not None
    assert choice.piece == 20
    underway(book, 1 << 20)
    choice = chooser.choose([A, B], free)
    assert choice is not None
    assert 21 <= choice.piece < 24
    underway(book, run_of(21, 3))
    choice = chooser.choose([A, B], free)
    assert choice is not None
    assert 24 <= choice.piece < 20 + WINDOW


def test_a_piece_that_cannot_be_checked_yet_is_not_asked_for() -> None:
    chooser, book = picker()
    book.held(A, book.pieces.layout.all)
    book.checkable = 0b100
    choice = chooser.choose([A], free)
    assert choice is not None
    assert choice.piece == 2


def test_nobody_is_asked_for_what_it_does_not_have() -> None:
    chooser, book = picker()
    book.held(A, 0b1)
    underway(book, 0b1)
    book.held(B, 0)
    assert chooser.choose([A, B], free) is None


def test_ties_are_broken_at_random() -> None:
    chosen = set()
    for seed in range(40):
        chooser, book = picker(seed)
        book.held(A, book.pieces.layout.all)
        book.held(B, 0)
        choice = chooser.choose([A, B], free)
        assert choice is not None
        chosen.add(choice.piece)
    assert len(chosen) > 15


def test_pieces_come_in_order_where_every_neighbour_is_a_seed() -> None:
    chooser, book = picker()
    book.held(A, book.pieces.layout.all)
    book.held(B, book.pieces.layout.all)
    underway(book, 0b11)
    choice = chooser.choose([A, B], free)
    assert choice is not None
    assert choice.piece == 2


def test_of_several_holders_the_one_of_least_cost_is_asked() -> None:
    chooser, book = picker()
    for peer in PEERS:
        book.held(peer, book.pieces.layout.all)
    costs = dict.fromkeys(PEERS, 5.0) | {C: 1.0}
    choice = chooser.choose(PEERS, costs.__getitem__)
    assert choice is not None
    assert choice.peer == C


def test_the_endgame_asks_one_more_neighbour_only_when_all_else_is_asked_for() -> None:
    chooser, book = picker()
    book.held(A, book.pieces.layout.all)
    book.held(B, book.pieces.layout.all)
    book.pieces.lease(StreamId(1), book.pieces.layout.all & ~0b11)
    book.pieces.ask(0, A, 1.0)
    assert chooser.choose_again([A, B], free, lambda asked_at: True) is None
    book.pieces.ask(1, A, 2.0)
    choice = chooser.choose_again([A, B], free, lambda asked_at: asked_at == 1.0)
    assert choice is not None
    assert (choice.peer, choice.piece) == (B, 0)
    assert chooser.choose_again([A, B], free, lambda asked_at: False) is None
    book.pieces.ask(0, B, 3.0)
    assert chooser.choose_again([A, B], free, lambda asked_at: asked_at < 2.0) is None, "two are enough"


@given(st.lists(st.tuples(st.sampled_from(PEERS), st.integers(0, (1 << 20) - 1), st.sampled_from("hgp"))))
def test_rarity_counts_the_holders_of_each_piece(steps: list[tuple[PeerId, int, str]]) -> None:
    book, model = book_of(5 * MIB), dict[PeerId, int]()
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
    for piece in range(book.pieces.layout.count):
        count = sum(pieces >> piece & 1 for pieces in model.values())
        assert book.rarity(1 << piece) == (count, 1 << piece)
