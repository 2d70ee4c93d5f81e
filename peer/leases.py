"""Fetching from the origin: one stream for each lease, cut into pieces as it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import structlog

from peer.download import Download, GrowingPiece
from peer.origin import Origin, OriginDenied, OriginError, OriginNotFound, OriginUnavailable
from shoal.pieces import MIB
from supernode.protocol import LeaseId, ReleaseReason

log = structlog.get_logger()

_ATTEMPTS = 3
"""Streams in a row that may end without a whole piece before the lease is given back."""
_BYTES_IN_HAND = 4 * MIB
"""Of one stream, in pieces that wait to be hashed and written; one piece at least."""
_RETRY_SECONDS = 0.3


@dataclass(slots=True)
class HeldLease:
    """A lease as its holder knows it: pieces `next` to `end - 1` are still to come. `end` may be lowered meanwhile."""

    id: LeaseId
    download: Download
    next: int
    end: int
    moved_at: float = 0.0


class NoRange(OriginError):
    """The origin sends the whole blob where a part was asked for."""


class LeaseStream:
    """Carries out a lease. `report(lease, index, digest)` is called for each piece, `count_bytes` for what came."""

    def __init__(
        self,
        lease: HeldLease,
        origin: Origin,
        report: Callable[[HeldLease, int, bytes], None],
        count_bytes: Callable[[int], None],
    ) -> None:
        self.lease = lease
        self._origin = origin
        self._report = report
        self._count_bytes = count_bytes
        self._in_hand = asyncio.Semaphore(max(1, _BYTES_IN_HAND // lease.download.layout.piece_size))
        self._landing: set[asyncio.Task[None]] = set()
        self._landed: dict[int, bytes] = {}
        self._reported = lease.next

    async def run(self) -> tuple[str, OriginError | None]:
        """Fetch until the end of the lease. Returns why it ended early (`ReleaseReason`, or empty) and the error."""
        failures = 0
        while True:
            before = self.lease.next
            try:
                await self._stream()
                return "", None
            except NoRange as error:
                return ReleaseReason.NO_RANGE, error
            except (OriginDenied, OriginNotFound) as error:
                return ReleaseReason.DENIED, error
            except OriginError as error:
                failures = 0 if self.lease.next > before else failures + 1
                log.info("lease.interrupted", digest=self.lease.download.blob.digest, error=str(error))
                if failures >= _ATTEMPTS:
                    return ReleaseReason.FAILED, error
                await asyncio.sleep(_RETRY_SECONDS * failures)

    async def _stream(self) -> None:
        lease, download = self.lease, self.lease.download
        layout = download.layout
        while lease.next < lease.end and download.have >> lease.next & 1:
            self._land(lease.next, download.partial.table.get(lease.next, b""))
            lease.next += 1
        if lease.next >= lease.end or download.over:
            return
        whole = lease.next == 0 and lease.end == layout.count
        start = 0 if whole else layout.span(lease.next).start
        end = None if whole else layout.span(lease.end - 1).end
        try:
            async with self._origin.fetch(download.location, download.blob, start, end) as body:
                if body.size is not None and body.size != layout.size:
                    raise OriginUnavailable(f"the origin has {body.size} bytes where {layout.size} were announced")
                if body.start != start and lease.end < layout.count:
                    raise NoRange("the origin ignores ranges")
                if body.start > start:
                    raise OriginUnavailable(f"the origin starts at {body.start} where {start} was asked for")
                await self._cut(_without(body.chunks(), start - body.start))
        finally:
            download.growing.pop(lease.next, None)
            await asyncio.gather(*self._landing)

    async def _cut(self, chunks: AsyncIterator[bytes]) -> None:
        lease, download = self.lease, self.lease.download
        layout, epoch = download.layout, download.epoch
        piece = self._begin(lease.next)
        if not piece.buffer:
            await self._whole(piece)
            return
        async for chunk in chunks:
            self._count_bytes(len(chunk))
            lease.moved_at = time.monotonic()
            rest = memoryview(chunk)
            while rest:
                count = min(len(piece.buffer) - piece.filled, len(rest))
                piece.buffer[piece.filled : piece.filled + count] = rest[:count]
                piece.filled += count
                rest = rest[count:]
                if piece.filled < len(piece.buffer):
                    continue
                await self._whole(piece)
                if lease.next >= lease.end or download.over or epoch != download.epoch:
                    return
                piece = self._begin(lease.next)
            if download.waited_for:
                download.changed()
        if lease.next < min(lease.end, layout.count):
            raise OriginUnavailable("the body ended before its announced length")

    def _begin(self, index: int) -> GrowingPiece:
        download = self.lease.download
        piece = GrowingPiece(bytearray(download.layout.length(index)))
        if not download.have >> index & 1:
            download.growing[index] = piece
        return piece

    async def _whole(self, piece: GrowingPiece) -> None:
        """A piece is complete: hash and write it beside the stream that goes on."""
        await self._in_hand.acquire()
        task = asyncio.create_task(self._take(self.lease.next, piece.buffer))
        self._landing.add(task)
        task.add_done_callback(self._landing.discard)
        self.lease.next += 1

    async def _take(self, index: int, content: bytearray) -> None:
        try:
            digest = await self.lease.download.take(index, content, None, rare=True)
        finally:
            self._in_hand.release()
        if digest is not None:
            self._land(index, digest)

    def _land(self, index: int, digest: bytes) -> None:
        """Report pieces in their order, whichever thread was first."""
        self._landed[index] = digest
        while self._reported in self._landed:
            self._report(self.lease, self._reported, self._landed.pop(self._reported))
            self._reported += 1


async def _without(chunks: AsyncIterator[bytes], count: int) -> AsyncIterator[bytes]:
    """The chunks without their first `count` bytes: what an origin sends that knows no ranges, and is here already."""
    async for chunk in chunks:
        dropped = min(count, len(chunk))
        count -= dropped
        if dropped < len(chunk):
            yield chunk[dropped:] if dropped else chunk
