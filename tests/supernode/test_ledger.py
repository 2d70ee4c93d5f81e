from __future__ import annotations

import pytest

from supernode import ledger
from supernode.ledger import Ledger
from supernode.protocol import PeerId

A, B = PeerId("a"), PeerId("b")


def test_who_has_taken_more_than_its_part_gets_no_more_when_all_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_MOST_EACH", 80)
    monkeypatch.setattr(ledger, "_MOST", 100)
    book = Ledger()
    assert not book.may_take(A, 81)
    book.take(A, 75)
    book.take(B, 25)
    assert not book.may_take(A, 1)
    assert book.may_take(B, 25)
    assert not book.may_take(B, 26)
    book.take(A, -75)
    assert book.may_take(B, 50)
    book.take(B, -25)
    assert (book.total, book.taken(A), book.taken(B)) == (0, 0, 0)
