"""Every target with the inputs that are kept, and with some that are made from them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import machines
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

BY_BYTES = [target for target in TARGETS.values() if target not in machines.TARGETS]
"""The machines' own property tests make inputs of theirs."""

edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8)),
    max_size=4,
)


def edited(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """`data` with bytes removed and others put in at places that are told as parts of its length."""
    for place, removed, added in edits:
        at = int(place * len(data))
        data = data[:at] + added + data[at + removed :]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_show_no_fault(name: str) -> None:
    target = TARGETS[name]
    for file in target.kept():
        target(file.read_bytes())


@pytest.mark.parametrize("target", BY_BYTES, ids=lambda target: target.name)
def test_inputs_made_from_them_show_none(target: Target) -> None:
    kept = [file.read_bytes() for file in target.kept()]

    @settings(max_examples=20, deadline=None)
    @given(st.sampled_from(kept), edits)
    def check(data: bytes, changes: list[tuple[float, int, bytes]]) -> None:
        target(edited(data, changes))

    check()
