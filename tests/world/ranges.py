"""The `Range` header for servers of the tests that know single ranges."""

from __future__ import annotations

from shoal.ranges import ByteRange, parse_ranges


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The one range that is asked for; None, the whole content, where there are none or several."""
    ranges = parse_ranges(header, size)
    return ranges[0] if ranges is not None and len(ranges) == 1 else None
