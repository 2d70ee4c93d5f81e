"""Every moment of a request has one cause."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.account import Account, Cause, accounted, current_account, waiting_for

TURNS = st.lists(st.tuples(st.sampled_from(Cause), st.floats(0.0, 100.0)), max_size=30)


@given(TURNS, st.floats(0.0, 100.0))
def test_the_times_of_all_causes_are_the_time_of_the_request(turns: list[tuple[Cause, float]], rest: float) -> None:
    now = 50.0
    account = Account(now)
    for cause, passed in turns:
        now += passed
        account.turn(cause, now)
    account.close(now + rest)
    assert sum(account.seconds.values()) == pytest.approx(now + rest - 50.0)


def test_who_is_late_to_tell_of_a_request_counts_for_nothing() -> None:
    account = Account(0.0)
    account.close(1.0)
    account.turn(Cause.TOKEN, 5.0)
    account.close(9.0)
    assert account.seconds == {Cause.NODE: 1.0}


async def test_a_wait_inside_another_one_counts_for_itself() -> None:
    account = Account(0.0)
    with accounted(account):
        with waiting_for(Cause.TAG):
            seen = [account.cause]
            with waiting_for(Cause.TOKEN):
                seen.append(account.cause)
            seen.append(account.cause)
        seen.append(account.cause)
    assert seen == [Cause.TAG, Cause.TOKEN, Cause.TAG, Cause.NODE]


async def test_tasks_that_a_request_begins_tell_its_account_and_others_do_not() -> None:
    account = Account(0.0)
    seen: list[Cause] = []

    async def asks() -> None:
        with waiting_for(Cause.TOKEN):
            seen.append(account.cause)

    with accounted(account):
        await asyncio.create_task(asks())
    await asyncio.create_task(asks())
    assert seen == [Cause.TOKEN, Cause.NODE]
    assert current_account() is not account


def test_what_a_client_is_given_is_counted_by_source() -> None:
    account = Account(0.0)
    account.gave("peer", 5, 2.0)
    account.gave("store", 3, 3.0)
    account.gave("peer", 1, 4.0)
    assert (account.given, account.first_byte_at) == ({"peer": 6, "store": 3}, 2.0)
