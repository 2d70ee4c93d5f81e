from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.pieces import (
    GIB,
    KIB,
    MAX_BLOB_SIZE,
    MAX_PIECE_SIZE,
    MAX_PIECES,
    MIB,
    PieceLayout,
    from_bitfield,
    iterate,
    leading_run,
    lowest,
    pick,
    run_of,
    set_of,
    to_bitfield,
)

sizes = st.integers(0, MAX_BLOB_SIZE) | st.integers(0, 300 * MIB)
sets = st.sets(st.integers(0, 500))


def as_set(pieces: set[int]) -> int:
    return sum(1 << piece for piece in pieces)


@given(sizes)
def test_the_pieces_of_a_blob_cover_it_without_gap_or_overlap(size: int) -> None:
    layout = PieceLayout.of(size)
    assert layout.span(0).start == 0
    assert layout.span(layout.count - 1).end == size
    assert layout.piece_size <= MAX_PIECE_SIZE
    assert (layout.count - 1) * layout.piece_size + layout.length(layout.last) == size
    middle = layout.count // 2
    assert layout.at(layout.span(middle).start) == middle
    assert layout.bytes_of(layout.all if layout.count < 10_000 else 1) == (
        size if layout.count < 10_000 else layout.length(0)
    )


@pytest.mark.parametrize(
    ("size", "piece"),
    [
        (64 * KIB, 64 * KIB),
        (64 * KIB + 1, 256 * KIB),
        (256 * MIB, 256 * KIB),
        (GIB, MIB),
        (16 * GIB, 4 * MIB),
        (17 * GIB, 8 * MIB),
    ],
)
def test_piece_sizes_grow_with_the_blob(size: int, piece: int) -> None:
    assert PieceLayout.of(size).piece_size == piece


@pytest.mark.parametrize("size", [-1, MAX_BLOB_SIZE + 1])
def test_a_size_out_of_bounds_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        PieceLayout.of(size)


@given(sets)
def test_a_bitfield_is_read_back(pieces: set[int]) -> None:
    assert from_bitfield(to_bitfield(as_set(pieces), 501), 501) == as_set(pieces)
    assert set(iterate(as_set(pieces))) == pieces


@pytest.mark.parametrize(("data", "count"), [(b"", 1), (b"\x00\x00", 8), (b"\x02", 1), (b"\xff", 7)])
def test_a_bitfield_that_does_not_fit_is_refused(data: bytes, count: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        from_bitfield(data, count)


@given(sets, st.integers(0, 500))
def test_a_leading_run_ends_at_the_first_gap(pieces: set[int], first: int) -> None:
    length = leading_run(as_set(pieces), first)
    assert all(first + step in pieces for step in range(length))
    assert first + length not in pieces
    assert run_of(first, length) & ~as_set(pieces) == 0


@given(sets.filter(bool), st.randoms())
def test_a_pick_is_one_of_the_set(pieces: set[int], rng: random.Random) -> None:
    assert pick(as_set(pieces), rng) in pieces
    assert lowest(as_set(pieces)) == min(pieces)


@given(st.sets(st.integers(0, MAX_PIECES - 1), max_size=40))
def test_a_set_of_pieces_is_gone_through_in_order(pieces: set[int]) -> None:
    assert set_of(pieces) == as_set(pieces)
    assert list(iterate(set_of(pieces))) == sorted(pieces)


def test_the_largest_blob_is_gone_through_in_little_time() -> None:
    began = time.process_time()
    assert set_of(iterate((1 << MAX_PIECES) - 1)) == (1 << MAX_PIECES) - 1
    assert time.process_time() - began < 0.5
