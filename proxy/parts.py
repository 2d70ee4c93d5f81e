"""Which bytes of a content an answer to GET carries: all, one range, or several as `multipart/byteranges` (RFC 9110,
sections 13 to 15)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aiohttp import hdrs, web

from proxy.errors import UnsatisfiableRange
from shoal.digest import Digest
from shoal.ranges import ByteRange, RangeNotSatisfiable, parse_ranges


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of the content, behind `head`, which is the answer's own."""

    span: ByteRange
    head: bytes = b""


@dataclass(frozen=True, slots=True)
class Selection:
    """The parts of an answer in their order, and `tail` behind them. `headers` describe the body so chosen."""

    status: int
    headers: Mapping[str, str]
    parts: Sequence[Part]
    tail: bytes = b""
    length: int = field(init=False)
    """Bytes of the body."""

    def __post_init__(self) -> None:
        parts = sum(len(part.head) + part.span.length for part in self.parts)
        object.__setattr__(self, "length", parts + len(self.tail))

    @property
    def ranges(self) -> list[ByteRange]:
        return [part.span for part in self.parts]

    def body(self, content: bytes) -> bytes:
        """The whole body, of a content that is at hand."""
        parts = (part.head + content[part.span.start : part.span.end] for part in self.parts)
        return b"".join(parts) + self.tail


def select(request: web.Request, digest: Digest, size: int, media_type: str) -> Selection:
    """What a GET of the content `digest` is answered with; raises `UnsatisfiableRange`.

    `If-Range` holds for the content's own strong validator alone: nothing here has a date.
    """
    condition = request.headers.get(hdrs.IF_RANGE)
    is_ranged = condition is None or condition.strip() == f'"{digest}"'
    try:
        ranges = parse_ranges(request.headers.get(hdrs.RANGE) if is_ranged else None, size)
    except RangeNotSatisfiable:
        raise UnsatisfiableRange(size) from None
    if ranges is None:
        return _selection(200, {}, [Part(ByteRange(0, size))])
    if len(ranges) == 1:
        return _selection(206, {"Content-Range": ranges[0].content_range(size)}, [Part(ranges[0])])
    boundary = secrets.token_hex(16)  # none that somebody could have put into the content
    parts = []
    for each in ranges:
        lines = (
            f"\r\n--{boundary}",
            f"Content-Type: {media_type}",
            f"Content-Range: {each.content_range(size)}",
            "\r\n",
        )
        parts.append(Part(each, "\r\n".join(lines).encode()))
    headers = {"Content-Type": f"multipart/byteranges; boundary={boundary}"}
    return _selection(206, headers, parts, f"\r\n--{boundary}--\r\n".encode())


def _selection(status: int, headers: dict[str, str], parts: Sequence[Part], tail: bytes = b"") -> Selection:
    selection = Selection(status, {}, parts, tail)
    return Selection(status, {**headers, "Content-Length": str(selection.length)}, parts, tail)
