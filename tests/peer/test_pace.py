"""How uploads are held back: against a link that is made up, and one rule at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.pace import UploadPace

SLOTS = 6
CHUNK = 32 << 10
TICK = 0.25
MB = 1e6


@dataclass
class Link:
    """A link of `rate` bytes/s with a queue of 50 ms before it, and uploads that want `demand` bytes/s through it."""

    rate: float
    demand: float = 1e12
    serving: int = SLOTS
    received: float = 0.0
    pace: UploadPace = field(default_factory=lambda: UploadPace(SLOTS))
    now: float = 1000.0
    queue: float = 0.0
    limits: list[float] = field(default_factory=list)
    queues: list[float] = field(default_factory=list)
    due: float = 1000.0
    """When the next chunk may go."""
    wanted: float = 0.0
    """Bytes that were asked for and not sent yet."""

    def run(self, seconds: float) -> None:
        step = 0.005
        for _ in range(round(seconds / TICK)):
            sent = 0.0
            for _ in range(round(TICK / step)):
                self.now += step
                left = min(self.queue, self.rate * step)
                self.queue -= left
                sent += left
                self.wanted = min(self.wanted + self.demand * step, 20 * CHUNK)
                while self.wanted >= CHUNK and self.due <= self.now and self.queue < 0.05 * self.rate:
                    self.queue += CHUNK
                    self.wanted -= CHUNK
                    self.due = self.now + self.pace.book(CHUNK, self.now)
            self.pace.sample(round(sent), round(self.received * TICK), self.serving, self.now)
            self.limits.append(self.pace.limit)
            self.queues.append(self.queue / self.rate)

    def mean_limit(self, seconds: float) -> float:
        last = self.limits[-round(seconds / TICK) :]
        return sum(last) / len(last)


@pytest.mark.parametrize("rate", [2 * MB, 6 * MB, 25 * MB])
def test_a_full_link_is_used_a_little_below_what_it_takes(rate: float) -> None:
    link = Link(rate)
    link.run(60)
    assert 0.88 * rate < link.mean_limit(40) < 1.03 * rate
    queues = sorted(link.queues[-160:])
    assert queues[len(queues) // 2] < 0.02, "most of the time the queue is short"


def test_at_the_start_nothing_is_held_back() -> None:
    link = Link(6 * MB)
    link.run(2)
    assert set(link.limits) == {0.0}


def test_a_link_that_gets_faster_is_found_out() -> None:
    link = Link(3 * MB)
    link.run(30)
    link.rate = 12 * MB
    link.run(60)
    assert link.mean_limit(10) > 0.85 * 12 * MB


def test_a_link_that_gets_slower_is_found_out() -> None:
    link = Link(12 * MB)
    link.run(30)
    link.rate = 6 * MB
    link.run(30)
    assert link.mean_limit(5) < 1.1 * 6 * MB


def test_fast_links_are_left_alone() -> None:
    link = Link(125 * MB)
    link.run(20)
    assert set(link.limits) == {0.0}


def test_with_few_uploads_those_who_ask_are_the_limit() -> None:
    link = Link(6 * MB, serving=SLOTS // 2)
    link.run(20)
    assert set(link.limits) == {0.0}
    assert link.pace.best > 0.9 * 6 * MB


def test_demand_that_comes_back_is_met_soon() -> None:
    link = Link(6 * MB, demand=2 * MB)
    link.run(20)
    link.demand = 1e12
    link.run(20)
    assert link.mean_limit(5) > 0.85 * 6 * MB


def test_downloads_tell_what_a_link_takes_of_which_little_is_asked() -> None:
    link = Link(6 * MB, demand=3 * MB, received=6 * MB)
    link.run(20)
    assert link.mean_limit(10) > 0.9 * 6 * MB


def test_after_a_rest_nothing_is_known() -> None:
    link = Link(6 * MB)
    link.run(20)
    for _ in range(100):
        link.now += TICK
        link.pace.sample(0, 0, 0, link.now)
    assert (link.pace.best, link.pace.limit) == (0.0, 0.0)
    assert link.pace.book(CHUNK, link.now) == 0.0


@given(st.lists(st.tuples(st.integers(1, 1 << 20), st.floats(0, 0.5)), min_size=1, max_size=60))
def test_what_is_let_go_keeps_to_the_limit(chunks: list[tuple[int, float]]) -> None:
    """Over any time no more than the limit's worth and a burst, however the chunks come."""
    pace = UploadPace(SLOTS)
    pace.limit = 5 * MB
    now, sent = 0.0, 0
    for size, later in chunks:
        now += later
        begins = now + pace.book(size, now)
        assert sent <= pace.limit * (begins + 0.002 + 0.01) + 1
        sent += size
