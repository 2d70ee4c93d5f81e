"""How many bytes a bucket lets pass, and in which order."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from peer.bucket import BURST_SECONDS, TokenBucket

RATE = 1000.0
BURST = RATE * BURST_SECONDS
NICETY = 1e-6

arrivals = st.lists(st.tuples(st.floats(0, 0.3), st.integers(1, 200)), min_size=1, max_size=40)
"""Seconds since the one before, and bytes."""


@dataclass(frozen=True)
class Passed:
    came_at: float
    at: float
    size: int


def passes(bucket: TokenBucket, comers: Sequence[tuple[float, int]]) -> list[Passed]:
    """When each who comes passes, who come and go as the bucket says."""
    now, passed = 100.0, []
    waiting: deque[tuple[float, float, int]] = deque()

    def let_go(until: float) -> float:
        """Let those pass whose turn has come by then, the first one first."""
        at = now
        while waiting and at + (wait := bucket.wait(waiting[0][0], at)) <= until:
            at += wait
            _, came_at, size = waiting.popleft()
            passed.append(Passed(came_at, at, size))
        return at

    for pause, size in comers:
        let_go(now + pause)
        now += pause
        waiting.append((bucket.take(size, now), now, size))
    let_go(float("inf"))
    return passed


@given(arrivals)
def test_no_window_sees_more_than_the_rate_and_a_burst(comers: list[tuple[float, int]]) -> None:
    passed = passes(TokenBucket(RATE), comers)
    most = max(BURST, *(each.size for each in passed))
    for first in range(len(passed)):
        size = 0
        for last in passed[first:]:
            size += last.size
            assert size <= RATE * (last.at - passed[first].at) + most + NICETY * size


@given(arrivals)
def test_nobody_starves(comers: list[tuple[float, int]]) -> None:
    """Each passes when those before have passed and the rate has brought its own bytes, at the latest."""
    free_at, passed = 0.0, passes(TokenBucket(RATE), comers)
    assert [each.size for each in passed] == [size for _, size in comers]
    for each in passed:
        free_at = max(free_at, each.came_at) + each.size / RATE
        assert each.at <= free_at + NICETY


@given(arrivals, st.floats(1, 1e6))
def test_another_rate_counts_for_those_who_wait_already(comers: list[tuple[float, int]], rate: float) -> None:
    bucket, now = TokenBucket(RATE), 100.0
    for _, size in comers:
        turn = bucket.take(size, now)
    left = bucket.wait(turn, now) * RATE
    bucket.change(rate, now)
    assert bucket.wait(turn, now) == approx(left / rate)
    half = left / rate / 2
    bucket.change(2 * rate, now + half)
    assert bucket.wait(turn, now + half) == approx(left / rate / 4)


def test_without_a_limit_nobody_waits() -> None:
    bucket = TokenBucket()
    assert bucket.wait(bucket.take(10**9, 100.0), 100.0) == 0.0


def test_a_limit_that_is_lifted_lets_all_go() -> None:
    bucket = TokenBucket(RATE)
    turn = bucket.take(10**6, 100.0)
    assert bucket.wait(turn, 100.0) > 900
    bucket.change(0.0, 100.0)
    assert bucket.wait(turn, 100.0) == 0.0


def test_a_limit_that_is_new_begins_with_a_burst_and_forgets_what_was_before() -> None:
    bucket = TokenBucket()
    bucket.take(10**9, 100.0)
    bucket.change(RATE, 101.0)
    assert bucket.wait(bucket.take(int(BURST), 101.0), 101.0) == 0.0
    assert bucket.wait(bucket.take(100, 101.0), 101.0) == approx(100 / RATE)


def test_what_was_not_used_does_not_pile_up() -> None:
    bucket = TokenBucket(RATE)
    bucket.take(1, 100.0)
    assert bucket.wait(bucket.take(int(2 * BURST), 1000.0), 1000.0) == approx(BURST / RATE)
