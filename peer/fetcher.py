"""Carries out what the machine fetches from origins: one task for each stream, cut into pieces as it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import structlog

from peer.account import Account, Cause, accounted, current_account, waiting_for
from peer.blob import BlobInProgress
from peer.commands import Fetch
from peer.origin import NoRange, Origin, OriginBody, OriginError, OriginUnavailable, SizeDiffers
from peer.piecemap import StreamId
from peer.throttle import Gate, passed
from shoal.descriptor import BlobKey
from shoal.pieces import MIB
from shoal.traces import Attributes, Traces

log = structlog.get_logger()

_BYTES_IN_HAND = 4 * MIB
"""Of one stream, in pieces that wait to be hashed and written; one piece at least, and of
a blob that passes by the store no more than that."""


class Events(Protocol):
    """Who is told how streams go on (`peer.runner` implements it)."""

    def received(self, stream: StreamId, count: int) -> None: ...

    def fetched(self, stream: StreamId, piece: int, content: bytearray) -> tuple[bool, bool]:
        """Returns whether the piece is kept, and whether the stream is to go on."""

    def fetch_ended(self, stream: StreamId, error: Exception | None) -> None: ...


class Fetcher:
    """The streams that run. `stop` and `close` end them without a word. What comes of a blob passes its gate."""

    def __init__(self, origin: Origin, events: Events, gate: Callable[[BlobKey], Gate], traces: Traces) -> None:
        self._origin = origin
        self._events = events
        self._gate = gate
        self._traces = traces
        self._tasks: dict[StreamId, asyncio.Task[None]] = {}
        self._room: dict[StreamId, asyncio.Semaphore] = {}
        self._accounts: dict[StreamId, Account] = {}
        """What each stream waits for."""

    def start(self, command: Fetch, blob: BlobInProgress) -> None:
        """Begin a stream, or open it again."""
        self.stop(command.stream)
        in_hand = 1 if blob.passes else max(1, _BYTES_IN_HAND // blob.layout.piece_size)
        self._room[command.stream] = asyncio.Semaphore(in_hand)
        account = self._accounts[command.stream] = Account(time.monotonic())
        account.turn(Cause.ORIGIN_ANSWER, account.began_at)
        task = self._tasks[command.stream] = asyncio.create_task(self._run(command, blob))
        task.add_done_callback(lambda _: self._over(command.stream, task))

    def stop(self, stream: StreamId) -> None:
        """End a stream."""
        task = self._tasks.pop(stream, None)
        if task is not None:
            del self._room[stream], self._accounts[stream]
            task.cancel()

    def cause(self, stream: StreamId) -> Cause:
        """What a stream waits for."""
        account = self._accounts.get(stream)
        return Cause.ORIGIN_ANSWER if account is None else account.cause

    def landed(self, stream: StreamId) -> None:
        """A piece of a stream has been written, or not: there is room for one more."""
        room = self._room.get(stream)
        if room is not None:
            room.release()

    async def close(self) -> None:
        """End all streams."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _over(self, stream: StreamId, task: asyncio.Task[None]) -> None:
        if self._tasks.get(stream) is task:
            del self._tasks[stream], self._room[stream], self._accounts[stream]

    async def _run(self, command: Fetch, blob: BlobInProgress) -> None:
        error: Exception | None = None
        try:
            run: Attributes = {
                "shoal.location": str(command.location),
                "shoal.first": command.first,
                "shoal.pieces": command.end - command.first,
            }
            account = self._accounts[command.stream]
            with self._traces.part("origin.fetch", run, blob.span), accounted(account):
                await self._stream(command, blob)
        except OriginError as caught:
            error = caught
            log.info("stream.ended", digest=command.blob.digest, location=str(command.location), error=str(caught))
        except Exception as caught:  # a fault of ours: the machine has to know that nothing more comes
            error = OriginUnavailable(f"a fault inside: {caught!r}")
            log.exception("stream.failed", digest=command.blob.digest, location=str(command.location))
        self._events.fetch_ended(command.stream, error)

    async def _stream(self, command: Fetch, blob: BlobInProgress) -> None:
        layout = blob.layout
        whole = command.first == 0 and command.end == layout.count
        start = 0 if whole else layout.span(command.first).start
        end = None if whole else layout.span(command.end - 1).end
        async with self._origin.fetch(command.location, blob.descriptor, start, end) as body:
            if body.size is not None and body.size != layout.size:
                raise SizeDiffers(f"the origin has {body.size} bytes where {layout.size} were announced", body.size)
            if body.start != start and command.end < layout.count:
                raise NoRange("the origin ignores ranges")
            if body.start > start:
                raise OriginUnavailable(f"the origin starts at {body.start} where {start} was asked for")
            await self._cut(command, blob, body, start)

    async def _cut(self, command: Fetch, blob: BlobInProgress, body: OriginBody, start: int) -> None:
        """Cut what comes into pieces, as long as the machine wants more of it."""
        events, stream = self._events, command.stream
        index, growing = command.first, blob.grow(command.first)
        current_account().turn(Cause.ORIGIN, time.monotonic())
        try:
            if not growing.buffer:
                await self._whole(stream, blob, index, growing.buffer)
                return
            chunks = passed(body.chunks(), lambda: self._gate(command.blob))
            async for chunk in _without(chunks, start - body.start):
                events.received(stream, len(chunk))
                rest = memoryview(chunk)
                while rest:
                    count = min(len(growing.buffer) - growing.filled, len(rest))
                    growing.buffer[growing.filled : growing.filled + count] = rest[:count]
                    growing.filled += count
                    rest = rest[count:]
                    if growing.filled < len(growing.buffer):
                        continue
                    if not await self._whole(stream, blob, index, growing.buffer) or index + 1 == command.end:
                        return
                    index += 1
                    growing = blob.grow(index)
                if blob.readers.are_waiting:
                    blob.readers.changed()
            raise OriginUnavailable("the body ended before its announced length")
        finally:
            if growing.filled < len(growing.buffer) and blob.readers.growing.get(index) is growing:
                del blob.readers.growing[index]

    async def _whole(self, stream: StreamId, blob: BlobInProgress, index: int, content: bytearray) -> bool:
        """A piece is complete: it is hashed and written beside the stream that goes on, unless nobody wants it."""
        room = self._room[stream]
        if room.locked():
            with waiting_for(Cause.DISK):
                await room.acquire()
        else:
            await room.acquire()
        kept, goes_on = self._events.fetched(stream, index, content)
        if not kept:
            room.release()
            blob.readers.growing.pop(index, None)
        return goes_on


async def _without(chunks: AsyncIterator[bytes], count: int) -> AsyncIterator[bytes]:
    """The chunks without their first `count` bytes: what an origin sends that knows no ranges, and is here already."""
    async for chunk in chunks:
        dropped = min(count, len(chunk))
        count -= dropped
        if dropped < len(chunk):
            yield chunk[dropped:] if dropped else chunk
