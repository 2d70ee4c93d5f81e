"""An upstream's response to a request for a blob, checked against what was asked for."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping

import aiohttp

from peer.origin import OriginUnavailable, SizeDiffers
from proxy.retry import Transient
from shoal.descriptor import Descriptor
from shoal.ranges import ByteRange

_LENGTH = re.compile(r"[0-9]{1,19}")
_UNSATISFIED_RANGE = re.compile(r"bytes \*/([0-9]{1,19})")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


def parse_content_range(header: str | None) -> tuple[ByteRange, int | None]:
    """The range and the whole length (None: not said) in a `Content-Range` header; raises `OriginUnavailable`."""
    match = _CONTENT_RANGE.fullmatch(header.strip()) if header is not None else None
    if match is None or int(match[2]) < int(match[1]):
        raise OriginUnavailable(f"a partial answer with the Content-Range {header!r}")
    return ByteRange(int(match[1]), int(match[2]) + 1), None if match[3] == "*" else int(match[3])


def size_differs(blob: Descriptor, size: int) -> OriginUnavailable:
    """The error for an answer of `size` bytes about a blob that has another size, as far as is known."""
    if not size and not blob.digest.matches(blob.digest.hasher()):
        return OriginUnavailable(f"the origin's answer for {blob.digest} is empty")
    return SizeDiffers(f"the origin says that {blob.digest} has {size} bytes, {blob.size} were expected", size)


def answered_range(status: int, headers: Mapping[str, str], blob: Descriptor, wanted: ByteRange) -> ByteRange:
    """The bytes that an answer of status 200, 206 or 416 announces.

    Raises `SizeDiffers` where it is an answer about a blob of another size, `OriginUnavailable` where it is senseless.
    A `Content-Encoding` is no reason to refuse: some origins say it of blobs that are compressed files, and the digest
    decides.
    """
    if status == 416:
        told = _UNSATISFIED_RANGE.fullmatch(headers.get("Content-Range", "").strip())
        if told is not None and int(told[1]) != blob.size:
            raise size_differs(blob, int(told[1]))
        raise OriginUnavailable(f"the origin has no bytes {wanted.start}-{wanted.end} of {blob.digest}")
    if status == 206:
        answered, size = parse_content_range(headers.get("Content-Range"))
        if answered.start != wanted.start or answered.end > wanted.end:
            raise OriginUnavailable(f"bytes {answered.start}-{answered.end} came for {wanted.start}-{wanted.end}")
    else:
        answered, size = ByteRange(0, blob.size), content_length(headers)
    if size is not None and size != blob.size:
        raise size_differs(blob, size)
    length = content_length(headers)
    if length is not None and length != answered.length:
        raise OriginUnavailable(f"{length} bytes are announced for a range of {answered.length}")
    return answered


class UpstreamBody:
    """An open response (`peer.origin.OriginBody`) of which the first bytes have come."""

    def __init__(
        self,
        host: str,
        content: aiohttp.StreamReader,
        answered: ByteRange,
        size: int,
        received: Callable[[int], None],
    ) -> None:
        """`host` is named in errors. `received` is told how many bytes have come."""
        self._received = received
        self._host = host
        self._content = content
        self._answered = answered
        self._size = size
        self._first = b""

    @property
    def start(self) -> int:
        return self._answered.start

    @property
    def size(self) -> int | None:
        return self._size

    async def begin(self) -> None:
        """Wait for the first bytes; raises `Transient` where none come."""
        self._first = await self._next()
        if not self._first and self._answered.length:
            raise Transient(f"{self._host} sent no byte of the body")

    async def gather(self, limit: int) -> int:
        """Wait for the whole of a small body whose length is not announced; its length in bytes.

        Raises `OriginUnavailable` where it has more than `limit` bytes.
        """
        content = bytearray()
        while chunk := await self._next():
            content += chunk
            if len(content) > limit:
                raise OriginUnavailable(f"a body of more than {limit} bytes")
        self._first = bytes(content)
        return len(content)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come, as often as not some hundred KiB at once; to be called once."""
        missing = self._answered.length
        chunk, self._first = self._first, b""
        while chunk:
            missing -= len(chunk)
            if missing < 0:
                raise OriginUnavailable(f"{self._host} sent more than it announced")
            yield chunk
            chunk = await self._next()
        if missing:
            raise OriginUnavailable(f"the body from {self._host} broke off {missing} bytes before its end")

    async def _next(self) -> bytes:
        try:
            while True:
                chunk, ended = await self._content.readchunk()  # `readany` would copy what it joins
                if chunk or not ended:
                    self._received(len(chunk))
                    return chunk
        except TimeoutError:
            raise Transient(f"no byte came from {self._host} in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Transient(f"the body from {self._host} broke off: {type(error).__name__}") from None


def content_length(headers: Mapping[str, str]) -> int | None:
    """The announced length of a body in bytes, or None where there is none that parses."""
    text = headers.get("Content-Length", "")
    return int(text) if _LENGTH.fullmatch(text) else None
