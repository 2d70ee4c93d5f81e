"""How many bytes of long answers are in memory."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.memory import AnswerMemory, MemoryFull

MOST = 100


def test_who_has_held_longest_makes_room() -> None:
    memory, cut = AnswerMemory(MOST), []
    with contextlib.ExitStack() as stack:
        for name in "abc":
            take = stack.enter_context(memory.holding(lambda name=name: cut.append(name)))  # type: ignore[misc]
            take(40)
        assert cut == ["a"]
        take(60)
        assert cut == ["a", "b"]
        assert memory.held == MOST
    assert memory.held == 0


def test_what_is_still_coming_is_not_cut() -> None:
    memory = AnswerMemory(MOST)
    with memory.holding() as first, memory.holding() as second:
        first(60)
        with pytest.raises(MemoryFull):
            second(41)
        second(40)
    with memory.holding() as third:
        third(MOST)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60)), max_size=60))
def test_no_more_than_the_most_is_held(steps: list[tuple[int, int]]) -> None:
    memory = AnswerMemory(MOST)
    with contextlib.ExitStack() as stack:
        takes = [stack.enter_context(memory.holding(None if place % 2 else (lambda: None))) for place in range(6)]
        for place, size in steps:
            with contextlib.suppress(MemoryFull):
                takes[place](size)
            assert memory.held <= MOST
    assert memory.held == 0
