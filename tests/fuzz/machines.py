"""The two state machines, by the property tests that they have: what hypothesis draws from, the fuzzer chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from hypothesis.stateful import get_state_machine_test

from tests.fuzz.target import Target
from tests.peer.test_machine_fuzz import Hostile
from tests.supernode.test_hostile import test_the_books_stay_true_whatever_peers_say as hostile_peers


def _by_bytes(test: object) -> Callable[[bytes], object]:
    """A property test as a function of the bytes that its examples are drawn from."""
    return cast("Callable[[bytes], object]", test.hypothesis.fuzz_one_input)  # type: ignore[attr-defined]


TARGETS = [
    Target("tracker", _by_bytes(hostile_peers), 7_000, limit=1024, pumped=False),
    Target(
        "machine",
        _by_bytes(get_state_machine_test(Hostile, settings=Hostile.TestCase.settings)),
        6_000,
        limit=1024,
        pumped=False,
    ),
]
