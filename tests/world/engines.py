"""What tests of whole engines start and look at, and an origin in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from peer.asked import Asked, Behind
from peer.engine import Engine
from peer.origin import OriginNotFound, OriginUnavailable
from shoal.descriptor import Descriptor
from shoal.digest import Digest
from shoal.ranges import ByteRange
from shoal.reference import Location

Start = Callable[..., Awaitable[Engine]]
AT = Location.parse("docker.io", "library/made")
CHUNK = 32 << 10


@dataclass
class MemoryBody:
    start: int
    size: int | None
    content: bytes
    origin: MemoryOrigin

    async def chunks(self) -> AsyncIterator[bytes]:
        for offset in range(0, len(self.content), CHUNK):
            await self.origin.gate.wait()
            chunk = self.content[offset : offset + CHUNK]
            await self.origin.turn(len(chunk))
            self.origin.sent += len(chunk)
            yield chunk
            await asyncio.sleep(0)
            if self.origin.breaks:
                raise OriginUnavailable("broke off")


@dataclass
class MemoryOrigin:
    """An origin that fails as it is told."""

    contents: dict[Digest, bytes] = field(default_factory=dict)
    sent: int = 0
    requests: int = 0
    ranges: bool = True
    breaks: bool = False
    wrong: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    rate: float = 0.0
    """Bytes/s of all answers together; 0: no limit."""
    _free_at: float = 0.0

    def put(self, content: bytes) -> Descriptor:
        return self.put_as(Digest.of(content), content)

    def put_as(self, digest: Digest, content: bytes) -> Descriptor:
        self.contents[digest] = content
        return Descriptor(digest, len(content))

    async def turn(self, size: int) -> None:
        """Wait until so many bytes have their turn on the link."""
        if self.rate:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + size / self.rate
            await asyncio.sleep(self._free_at - now)

    @contextlib.asynccontextmanager
    async def fetch(
        self, location: Location, blob: Descriptor, start: int = 0, end: int | None = None
    ) -> AsyncIterator[MemoryBody]:
        self.requests += 1
        content = self.contents.get(blob.digest)
        if content is None:
            raise OriginNotFound("not here")
        if self.wrong:
            content = bytes(len(content))
        if not self.ranges:
            start, end = 0, None
        yield MemoryBody(start, len(content), content[start:end], self)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for are counters of others
            await asyncio.sleep(0.005)


class Collected:
    """A client that keeps what it is given."""

    def __init__(self) -> None:
        self.content = bytearray()

    async def write(self, content: bytes | memoryview) -> None:
        self.content += content

    async def send_file(self, file: int, start: int, end: int) -> None:
        self.content += os.pread(file, end - start, start)


async def read(engine: Engine, blob: Descriptor, start: int = 0, end: int | None = None) -> bytes:
    """Bytes of a blob, of which all is asked for."""
    return await _read(engine, blob, None, ByteRange(start, blob.size if end is None else end))


async def read_ranges(engine: Engine, blob: Descriptor, *ranges: tuple[int, int], behind: Behind) -> bytes:
    """These ranges of a blob, one behind the other."""
    asked = Asked(tuple(ByteRange(*each) for each in ranges), behind)
    return await _read(engine, blob, asked, *asked.ranges)


async def _read(engine: Engine, blob: Descriptor, asked: Asked | None, *ranges: ByteRange) -> bytes:
    async with await engine.supply.open(blob, AT, asked) as opened:
        await opened.ready(ranges[0].start)
        client = Collected()
        for each in ranges:
            await opened.send(client, each.start, each.end)
        return bytes(client.content)
