"""Byte ranges of a blob and the `Range` header (RFC 9110, section 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_RANGES = 1024
"""Of one request; as many as podman asks for at once of a layer in the format zstd:chunked."""

_SPEC = re.compile(r"([0-9]*)-([0-9]*)")
_SPACE = " \t"
_MAX_DIGITS = 19
_BEYOND = 10**_MAX_DIGITS


class RangeNotSatisfiable(ValueError):
    """A range that lies outside the blob: HTTP status 416."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `start` up to, not including, `end`."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start

    def content_range(self, size: int) -> str:
        """The `Content-Range` header's value for a blob of `size` bytes."""
        return f"bytes {self.start}-{self.end - 1}/{size}"


def parse_ranges(header: str | None, size: int) -> tuple[ByteRange, ...] | None:
    """The ranges of a content of `size` bytes that a `Range` header asks for, or None where all of it is to be sent.

    In the order in which they were asked for; those that overlap are one, at the place of the first of them. Such as
    only touch stay apart: podman counts the parts of the answer and takes no other number than it has asked for. What
    lies outside is left out, and what ends before it begins, which the RFC lets be refused and registries refuse.
    Ignored, as the RFC allows, is a header that is absent, malformed, of another unit, of more than `MAX_RANGES`
    ranges, or about a content of no bytes: containerd asks for `bytes=0-` of everything.
    Raises `RangeNotSatisfiable` where nothing is left.
    """
    specs = _specs(header) if header is not None and size else None
    if specs is None:
        return None
    ranges = [found for spec in specs if (found := _range(*spec, size)) is not None]
    if not ranges:
        raise RangeNotSatisfiable(header)
    return tuple(_without_overlaps(ranges))


def _specs(header: str) -> list[tuple[int | None, int | None]] | None:
    """First and last position of each range as they stand there, one of them missing or not; None: malformed."""
    unit, _, listed = header.partition("=")
    if unit.lower() != "bytes" or listed.count(",") >= MAX_RANGES:
        return None
    specs: list[tuple[int | None, int | None]] = []
    for text in listed.split(","):
        if not text.strip(_SPACE):
            continue  # lists may have empty elements
        match = _SPEC.fullmatch(text.strip(_SPACE))
        if match is None or match[1] == match[2] == "":
            return None
        specs.append((_position(match[1]), _position(match[2])))
    return specs or None


def _position(digits: str) -> int | None:
    """A number of any length: what lies beyond every content is all the same."""
    if not digits:
        return None
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= _MAX_DIGITS else _BEYOND


def _range(first: int | None, last: int | None, size: int) -> ByteRange | None:
    """The bytes that a range means, or None where there are none."""
    if first is None:
        return ByteRange(max(0, size - last), size) if last else None
    end = size if last is None else min(last + 1, size)
    return ByteRange(first, end) if first < end else None


def _without_overlaps(ranges: list[ByteRange]) -> list[ByteRange]:
    joined: list[tuple[int, ByteRange]] = []
    """Each with the place at which it, or the first of those that it is made of, was asked for."""
    for place, each in sorted(enumerate(ranges), key=lambda item: item[1].start):
        if joined and each.start < joined[-1][1].end:
            before, other = joined[-1]
            joined[-1] = min(before, place), ByteRange(other.start, max(other.end, each.end))
        else:
            joined.append((place, each))
    return [each for _, each in sorted(joined, key=lambda item: item[0])]
