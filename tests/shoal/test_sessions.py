"""Sessions of browsers: how long they last, and how many there are."""

from __future__ import annotations

from shoal.sessions import _MAX_SESSIONS, LIFETIME_SECONDS, Sessions


def test_a_session_stands_for_its_header_until_its_time_is_over() -> None:
    now = 100.0
    sessions = Sessions(lambda: now)
    name = sessions.open("Bearer one")
    now += LIFETIME_SECONDS - 1
    assert sessions.authorization(name) == "Bearer one"
    now += 1
    assert sessions.authorization(name) is None
    now -= LIFETIME_SECONDS
    assert sessions.authorization(name) is None


def test_no_two_sessions_have_one_name_and_the_oldest_makes_room() -> None:
    sessions = Sessions()
    names = [sessions.open(f"Bearer {number}") for number in range(_MAX_SESSIONS + 1)]
    assert len(set(names)) == len(names)
    assert min(map(len, names)) >= 32
    assert sessions.authorization(names[0]) is None
    assert sessions.authorization(names[1]) == "Bearer 1"


def test_a_session_that_was_ended_is_gone() -> None:
    sessions = Sessions()
    name = sessions.open("Bearer one")
    sessions.close(name)
    sessions.close("none")
    assert sessions.authorization(name) is None
