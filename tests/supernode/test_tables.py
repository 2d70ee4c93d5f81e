from __future__ import annotations

from shoal.pieces import PIECE_DIGEST_SIZE
from supernode.protocol import PeerId
from supernode.tables import PieceTable

A, B = PeerId("a"), PeerId("b")
ONE, TWO = b"1" * PIECE_DIGEST_SIZE, b"2" * PIECE_DIGEST_SIZE


def test_a_first_report_stands_until_a_firm_one_replaces_it() -> None:
    table = PieceTable()
    table.report(A, 0b11, [0, 1], ONE + ONE, firm=False)
    table.report(B, 0b01, [0], TWO, firm=False)
    assert table.digests_of(0b11) == ONE + ONE
    table.report(B, 0b01, [0], TWO, firm=True)
    table.report(A, 0b01, [0], ONE, firm=True)
    assert table.digests_of(0b11) == TWO + ONE


def test_news_are_the_digests_that_have_changed() -> None:
    table = PieceTable()
    table.report(A, 0b11, [0, 1], ONE + ONE, firm=False)
    table.news = 0
    table.report(B, 0b11, [0, 1], ONE + TWO, firm=True)
    assert table.news == 0b10


def test_of_many_digests_those_are_taken_that_are_meant() -> None:
    table = PieceTable()
    table.report(A, 0b100, [1, 2], ONE + TWO, firm=False)
    assert table.tabled == 0b100
    assert table.digests_of(0b100) == TWO
