from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.strangers import Complaints, Strangers, group_of


def test_who_opens_many_connections_pushes_out_his_own() -> None:
    strangers: Strangers[int] = Strangers(places=4, places_of_address=3)
    assert [strangers.enter(key, "10.0.0.1") for key in range(5)] == [None, None, None, 0, 1]
    assert strangers.enter(5, "10.0.0.2") is None
    assert strangers.enter(6, "10.0.0.3") == 2
    assert list(strangers) == [3, 4, 5, 6]


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans())), st.integers(1, 6), st.integers(1, 6))
def test_a_newcomer_is_always_let_in_and_places_are_never_more(
    steps: list[tuple[int, bool]], places: int, of_address: int
) -> None:
    strangers: Strangers[int] = Strangers(places, of_address)
    here: dict[int, int] = {}
    for key, (address, leaves) in enumerate(steps):
        if leaves and here:
            gone = min(here)
            strangers.leave(gone)
            del here[gone]
        busiest = max((list(here.values()).count(each) for each in here.values()), default=0)
        leaving = strangers.enter(key, str(address))
        here[key] = address
        if leaving is not None:
            its = here.pop(leaving)
            assert its == address or list(here.values()).count(its) + 1 == busiest
            assert all(other > leaving for other, of in here.items() if of == its)
        assert set(strangers) == set(here)
        assert len(here) <= places
        assert list(here.values()).count(address) <= of_address
    strangers.leave(-1)


def test_a_crowd_that_is_turned_away_is_told_of_now_and_then() -> None:
    complaints = Complaints()
    assert [complaints.is_due("10.0.0.1", now) for now in (0.0, 1.0, 9.9, 10.0, 11.0)] == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert complaints.is_due("10.0.0.2", 11.0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2", True),
        ("", "x", False),
    ],
)
def test_what_one_host_may_choose_from_is_one_address(one: str, other: str, same: bool) -> None:
    assert (group_of(one) == group_of(other)) == same
