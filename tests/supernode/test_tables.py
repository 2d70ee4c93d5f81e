from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.pieces import PIECE_DIGEST_SIZE, iterate
from supernode.protocol import PeerId
from supernode.tables import COMPLAINT_SECONDS, PieceTable

A, B, C, D = (PeerId(name) for name in "abcd")
ONE, TWO = b"1" * PIECE_DIGEST_SIZE, b"2" * PIECE_DIGEST_SIZE


def say(table: PieceTable, peer: PeerId, digests: str, *, firm: bool = True) -> list[PeerId]:
    """A peer reports pieces 0, 1 ...: `1` and `2` are digests, `-` is a piece that it says nothing of."""
    among = [index for index, digest in enumerate(digests) if digest != "-"]
    told = b"".join(digests[index].encode() * PIECE_DIGEST_SIZE for index in among)
    return table.report(peer, sum(1 << index for index in among), among, told, firm)


def standing(table: PieceTable, count: int) -> str:
    """What stands of the first pieces."""
    return "".join(
        table.digests_of(1 << index)[:1].decode() if table.tabled >> index & 1 else "-" for index in range(count)
    )


def test_a_first_report_stands_until_a_firm_one_replaces_it() -> None:
    table = PieceTable()
    say(table, A, "11", firm=False)
    say(table, B, "2", firm=False)
    assert table.digests_of(0b11) == ONE + ONE
    assert say(table, B, "2") == [], "who has its pieces from others may have been deceived"
    assert table.digests_of(0b11) == TWO + ONE


def test_news_are_the_digests_that_have_changed() -> None:
    table = PieceTable()
    say(table, A, "11", firm=False)
    table.news = 0
    say(table, B, "12")
    assert table.news == 0b10


def test_of_many_digests_those_are_taken_that_are_meant() -> None:
    table = PieceTable()
    table.report(A, 0b100, [1, 2], ONE + TWO, firm=False)
    assert table.tabled == 0b100
    assert table.digests_of(0b100) == TWO


def test_who_is_contradicted_by_two_others_is_a_liar_and_one_alone_convicts_nobody() -> None:
    table = PieceTable()
    say(table, A, "2")
    assert say(table, B, "1") == []
    assert say(table, B, "1") == [], "however often it says so"
    assert standing(table, 1) == "2"
    table.news = 0
    assert say(table, C, "1") == [A]
    assert (standing(table, 1), table.news) == ("1", 0b1)
    assert say(table, D, "2") == [D], "two have agreed already"


def test_what_two_members_say_stays_when_the_table_is_void() -> None:
    table = PieceTable()
    say(table, A, "111")
    say(table, B, "1--")
    assert table.void(0.0) == 0b110
    assert standing(table, 3) == "1--"


def test_what_was_said_before_a_table_was_void_weighs_against_its_reporters_alone() -> None:
    table = PieceTable()
    say(table, A, "22--")
    say(table, B, "--11")
    table.void(0.0)
    assert say(table, A, "22--") == []
    assert say(table, B, "11--", firm=False) == []
    assert standing(table, 4) == "----", "neither the same word again nor a weak one"
    assert say(table, B, "11--") == []
    assert standing(table, 4) == "11--"
    assert set(table.contested) == {0, 1}
    assert say(table, C, "1---") == [A]
    assert table.withdraw(A) == 0
    assert standing(table, 4) == "1111", "as the liar is found the others are believed again"
    assert not table.contested
    assert not table.is_distrusted


def test_a_liars_words_are_withdrawn_and_others_stand_in_their_place() -> None:
    table = PieceTable()
    say(table, A, "222-")
    say(table, B, "1---")
    say(table, C, "---1")
    table.news = 0
    assert table.withdraw(A) == 0b111
    assert table.news == 0b1
    assert standing(table, 4) == "1--1"
    assert not table.has_words_of(A)


def test_a_table_is_void_when_two_members_have_called_it_wrong() -> None:
    table = PieceTable()
    say(table, A, "11")
    assert not table.complain(B, 0.0)
    assert not table.complain(B, 1.0)
    assert table.complain(C, 2.0)
    table.void(2.0)
    say(table, D, "11")
    assert not table.complain(D, 2.5), "so soon it is about the void one"
    assert not table.complain(D, 4.0)
    assert not table.complain(B, 5.0), "who was heard is not heard again for a while"
    assert not table.complain(B, 5.0 + COMPLAINT_SECONDS)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.text("12-", min_size=6, max_size=6), st.booleans()), max_size=30),
    st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_whatever_one_member_says_no_honest_one_is_convicted(
    said: list[tuple[str, str, bool]], voids: list[bool]
) -> None:
    """Member `d` says anything; the firm words of all others are true (`1`)."""
    table = PieceTable()
    gone = False
    for (name, digests, firm), void in zip(said, voids, strict=False):
        peer = PeerId(name)
        if peer == D and gone:
            continue
        told = digests if peer == D or not firm else digests.replace("2", "1")
        liars = say(table, peer, told, firm=firm)
        assert set(liars) <= {D}
        for liar in liars:
            table.withdraw(liar)
            gone = True
            assert table._standing.reporters.get(liar, 0) & ~table.confirmed == 0
        if void:
            table.void(0.0)
        assert len(table.digests_of(table.tabled)) == table.tabled.bit_count() * PIECE_DIGEST_SIZE
        assert all(table.digests_of(1 << index) == ONE for index in iterate(table.confirmed & table.tabled))
        assert table.news & ~table.tabled == 0
