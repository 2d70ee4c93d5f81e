from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.ranges import MAX_RANGES, ByteRange, RangeNotSatisfiable, parse_ranges
from tests.world.ranges import parse_range

SIZE = 100


def spans(header: str | None, size: int = SIZE) -> list[tuple[int, int]] | None:
    found = parse_ranges(header, size)
    return [(each.start, each.end) for each in found] if found is not None else None


@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(1, 2000))
def test_a_range_is_what_a_slice_is(start: int, end: int, size: int) -> None:
    content = bytes(size)
    if start >= size:
        with pytest.raises(RangeNotSatisfiable):
            parse_ranges(f"bytes={start}-", size)
        return
    open_ended = parse_range(f"bytes={start}-", size)
    assert open_ended is not None
    assert content[open_ended.start : open_ended.end] == content[start:]
    if end < start:
        with pytest.raises(RangeNotSatisfiable):
            parse_ranges(f"bytes={start}-{end}", size)
        assert parse_ranges(f"bytes={start}-{end},0-0", size) == (ByteRange(0, 1),)
    else:
        closed = parse_range(f"bytes={start}-{end}", size)
        assert closed is not None
        assert closed.length == len(content[start : end + 1])
        assert closed.content_range(size) == f"bytes {start}-{min(end, size - 1)}/{size}"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=0-1,-",
        "items=0-1",
        "bytes=a-b",
        "bytes=0-1;3-4",
        "bytes=0 - 1",
        "bytes=+1-2",
        "bytes=\u0661-2",
        "bytes 0-1",
    ],
)
def test_what_is_no_range_is_ignored(header: str | None) -> None:
    assert parse_ranges(header, SIZE) is None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-", [(0, 100)]),
        ("Bytes=0-0", [(0, 1)]),
        ("bytes=99-", [(99, 100)]),
        ("bytes=5-1000000000000000000000000000000", [(5, 100)]),
        ("bytes=00000000000000000000000005-9", [(5, 10)]),
        ("bytes=-10", [(90, 100)]),
        ("bytes=-1000000000000000000000000000000", [(0, 100)]),
        ("bytes= 0-1 ,\t3-4", [(0, 2), (3, 5)]),
        ("bytes=,0-1,,3-4,", [(0, 2), (3, 5)]),
        ("bytes=50-59,0-9,-5", [(50, 60), (0, 10), (95, 100)]),
    ],
)
def test_ranges_in_the_order_in_which_they_were_asked_for(header: str, expected: list[tuple[int, int]]) -> None:
    assert spans(header) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-9,10-19", [(0, 10), (10, 20)]),
        ("bytes=0-10,10-19", [(0, 20)]),
        ("bytes=60-69,0-9,65-79", [(60, 80), (0, 10)]),
        ("bytes=0-,5-5,-1", [(0, 100)]),
        ("bytes=0-9,20-29,5-25", [(0, 30)]),
    ],
)
def test_ranges_that_overlap_are_one_and_such_as_touch_are_not(header: str, expected: list[tuple[int, int]]) -> None:
    assert spans(header) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=-0", "bytes=100-200,1000000000000000000000-,-0"])
def test_a_header_without_any_byte_of_the_content_cannot_be_satisfied(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        parse_ranges(header, SIZE)


def test_what_lies_outside_is_left_out_where_something_else_does_not() -> None:
    assert spans("bytes=200-300,5-9,-0") == [(5, 10)]


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=-1", "bytes=5-9"])
def test_of_nothing_all_is_sent(header: str) -> None:
    assert parse_ranges(header, 0) is None


def test_more_ranges_than_any_client_asks_for_are_ignored() -> None:
    several = [f"{2 * place}-{2 * place}" for place in range(MAX_RANGES)]
    assert len(spans("bytes=" + ",".join(several), 10_000) or ()) == MAX_RANGES
    assert spans("bytes=" + ",".join([*several, "9000-9000"]), 10_000) is None


def test_a_server_of_single_ranges_answers_several_with_everything() -> None:
    assert parse_range("bytes=0-1,5-6", SIZE) is None
    assert parse_range("bytes=0-5,5-6", SIZE) == ByteRange(0, 7)


@given(st.text(alphabet="bytes=0123456789-, \t", max_size=60), st.integers(0, 200))
def test_any_header_gives_parts_that_lie_in_the_content_and_apart(header: str, size: int) -> None:
    try:
        found = parse_ranges("bytes=" + header, size)
    except RangeNotSatisfiable:
        return
    ordered = sorted(found or (), key=lambda each: each.start)
    assert all(0 <= each.start < each.end <= size for each in ordered)
    assert all(before.end <= after.start for before, after in itertools.pairwise(ordered))
