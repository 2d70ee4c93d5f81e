"""The order of tags as versions."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.tagorder import newest, version_key


@pytest.mark.parametrize(
    "ascending",
    [
        ["1.9", "1.9.1", "1.10", "2"],
        ["2.0-alpha", "2.0-beta", "2.0-rc1", "2.0-rc2", "2.0", "2.0.1"],
        ["2.0.0-canary.9", "2.0.0-canary.10", "2.0.0"],
        ["8.0-milestone2", "8.0-next.1", "8.0", "8.0-jammy"],
        ["v1.2.3", "1.2.4", "v1.3"],
        ["latest", "main", "2024-01-31", "2024-02-01", "20240301"],
        ["3.19-alpine", "3.20-alpine"],
    ],
)
def test_tags_are_ordered_as_their_versions_are(ascending: list[str]) -> None:
    shuffled = random.Random(1).sample(ascending, len(ascending))
    assert newest(shuffled, len(ascending)) == ascending[::-1]


@given(st.lists(st.text("0123456789.-_vabcr", min_size=1, max_size=12)), st.integers(0, 5))
def test_any_tags_have_an_order(tags: list[str], count: int) -> None:
    found = newest(tags, count)
    assert len(found) == min(count, len(set(tags)))
    assert [version_key(tag) for tag in found] == sorted((version_key(tag) for tag in found), reverse=True)
