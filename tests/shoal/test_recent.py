from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.recent import Recent


@given(st.lists(st.tuples(st.integers(0, 9), st.integers())), st.integers(1, 5))
def test_the_entries_put_last_are_held(steps: list[tuple[int, int]], most: int) -> None:
    table: Recent[int, int] = Recent(most)
    expected: dict[int, int] = {}
    for key, value in steps:
        assert table.put(key, value) == value
        expected.pop(key, None)
        expected[key] = value
    assert list(table.items()) == list(expected.items())[-most:]
