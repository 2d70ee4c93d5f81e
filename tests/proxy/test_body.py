from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.origin import OriginUnavailable, SizeDiffers
from proxy.body import answered_range, content_length, parse_content_range
from shoal.descriptor import Descriptor
from shoal.digest import Digest
from shoal.ranges import ByteRange

BLOB = Descriptor(Digest.of(b"x"), 100)


@given(st.integers(0, 10**15), st.integers(1, 10**15), st.integers(0, 10**15))
def test_content_range_reads_what_byte_ranges_write(start: int, length: int, rest: int) -> None:
    part, size = ByteRange(start, start + length), start + length + rest
    assert parse_content_range(part.content_range(size)) == (part, size)


@given(st.text(max_size=60))
def test_any_content_range_is_survived(header: str) -> None:
    try:
        part, _ = parse_content_range(header)
        assert part.length > 0
    except OriginUnavailable:
        pass


@pytest.mark.parametrize(
    ("text", "length"),
    [("0", 0), ("100", 100), ("", None), ("-1", None), ("+1", None), ("٣", None), ("9" * 5000, None)],
)
def test_what_is_no_length_is_none(text: str, length: int | None) -> None:
    assert content_length({"Content-Length": text}) == length


@pytest.mark.parametrize(
    ("status", "headers", "wanted", "expected"),
    [
        (200, {"Content-Length": "100"}, ByteRange(0, 100), ByteRange(0, 100)),
        (200, {}, ByteRange(0, 100), ByteRange(0, 100)),
        (200, {"Content-Length": "100"}, ByteRange(40, 60), ByteRange(0, 100)),
        (206, {"Content-Range": "bytes 40-59/100"}, ByteRange(40, 60), ByteRange(40, 60)),
        (206, {"Content-Range": "bytes 40-49/*", "Content-Length": "10"}, ByteRange(40, 60), ByteRange(40, 50)),
    ],
)
def test_answers_that_fit(status: int, headers: dict[str, str], wanted: ByteRange, expected: ByteRange) -> None:
    assert answered_range(status, headers, BLOB, wanted) == expected


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"Content-Length": "99"}),
        (200, {"Content-Length": "101"}),
        (206, {}),
        (206, {"Content-Range": "bytes 30-59/100"}),
        (206, {"Content-Range": "bytes 40-60/100"}),
        (206, {"Content-Range": "bytes 59-40/100"}),
        (206, {"Content-Range": "bytes 40-59/101"}),
        (206, {"Content-Range": "bytes 40-59/100", "Content-Length": "21"}),
    ],
)
def test_answers_that_lie(status: int, headers: dict[str, str]) -> None:
    with pytest.raises(OriginUnavailable):
        answered_range(status, headers, BLOB, ByteRange(40, 60))


@pytest.mark.parametrize(
    ("status", "headers", "size"),
    [
        (200, {"Content-Length": "101"}, 101),
        (206, {"Content-Range": "bytes 40-59/101"}, 101),
        (206, {"Content-Range": "bytes 40-44/45"}, 45),
        (416, {"Content-Range": "bytes */30"}, 30),
    ],
)
def test_answers_about_a_blob_of_another_size(status: int, headers: dict[str, str], size: int) -> None:
    with pytest.raises(SizeDiffers, match=f"{size} bytes, 100 were expected") as caught:
        answered_range(status, headers, BLOB, ByteRange(40, 60))
    assert caught.value.size == size


@pytest.mark.parametrize(
    ("status", "headers"),
    [(200, {"Content-Length": "0"}), (416, {}), (416, {"Content-Range": "bytes */100"}), (416, {"Content-Range": "x"})],
)
def test_answers_that_tell_no_size(status: int, headers: dict[str, str]) -> None:
    with pytest.raises(OriginUnavailable) as caught:
        answered_range(status, headers, BLOB, ByteRange(40, 60))
    assert not isinstance(caught.value, SizeDiffers)
