"""A blob on its way: its file, its readers and its verifier. What is fetched from where, the machine decides."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import structlog

from peer.disk import StoreError
from peer.errors import DownloadFailed
from peer.partial import Partial
from peer.passage import Passage, unsame
from peer.readers import GrowingPiece, Readers
from peer.verifier import Verifier
from peer.workers import Workers
from shoal.descriptor import Descriptor
from shoal.pieces import PieceLayout, PieceSet, piece_digest
from shoal.traces import NO_SPAN, Span

log = structlog.get_logger()


class BlobInProgress:
    """One blob's pieces on the disk and in memory. Belongs to the event loop."""

    def __init__(
        self,
        descriptor: Descriptor,
        partial: Partial | Passage,
        readers: Readers,
        workers: Workers,
        span: Span = NO_SPAN,
        joining: Span = NO_SPAN,
    ) -> None:
        """`span`: its way in a trace, and `joining` the part until its first piece is here; both are ended here."""
        self.descriptor = descriptor
        self.partial = partial
        """Its file, or what stands in the place of that where it passes by the store."""
        self.readers = readers
        self.layout: PieceLayout = partial.layout
        self.started_at = time.monotonic()
        self.finished = asyncio.Event()
        """Set when nothing more becomes of it, well or not."""
        self.settled = asyncio.Event()
        """Set when it is in the store, or will not be there."""
        if self.passes:
            self.settled.set()
        self.verifier = Verifier(partial, workers)
        self.span = span
        self.asked: dict[int, Span] = {}
        """Pieces that are asked for, as far as they are spans of its trace."""
        self.asked_for = 0
        """How many have been spans."""
        self._joining = joining
        self._workers = workers

    @property
    def over(self) -> bool:
        return self.readers.is_verified or self.readers.error is not None

    @property
    def passes(self) -> bool:
        """Whether it passes by the store."""
        return isinstance(self.partial, Passage)

    def pass_by(self, *, readable: bool) -> Passage:
        """The store takes no more of it; `readable`: what it took can be read. Its file is to be removed."""
        assert isinstance(self.partial, Partial)
        passage = Passage.behind(self.partial, readable=readable)
        self.partial = self.readers.partial = passage
        self.verifier.go_on_with(passage)
        self.settled.set()
        return passage

    def grow(self, index: int) -> GrowingPiece:
        """A piece begins to stream in."""
        growing = self.readers.growing[index] = GrowingPiece(bytearray(self.layout.length(index)))
        return growing

    async def write(self, index: int, content: bytearray, expected: bytes | None) -> bytes | None:
        """Check a piece and write it; returns its digest, or None where that is not `expected`. `land` makes it count.

        Waits where the hash of the whole does not keep up, and where a blob that passes by needs the piece only later.
        Raises `StoreError`.
        """
        while self.verifier.lags and not self.over:
            await self.verifier.moved()
        partial = self.partial
        if isinstance(partial, Partial):
            return await self._workers.run(_check_and_write, partial, index, content, expected)
        await partial.room(index)
        digest = await self._workers.run(piece_digest, content)
        if expected is not None and digest != expected:
            return None
        if partial.table.get(index, digest) != digest:
            raise unsame(partial.digest, index)
        return digest

    def land(self, index: int, content: bytearray, digest: bytes, *, from_origin: bool) -> None:
        """A piece that was written counts; `content` must not change any more."""
        if isinstance(self.partial, Passage):
            self.partial.take(index, content, digest)
        else:
            self.partial.mark(index, digest)
        self.verifier.keep(index, content)
        self._joining.end()
        self._joining = NO_SPAN
        self.readers.landed(index, content, digest, from_origin=from_origin)

    def trace_end(self, error: Exception | None) -> None:
        """Nothing more becomes of it: say in its trace how that was."""
        if not self.span.is_recorded:
            return
        for span in (self._joining, *self.asked.values()):
            span.end()
        sums: Counter[str] = Counter()
        for source, size in self.readers.sources(0, self.layout.size):
            sums[f"shoal.from.{source}"] += size
        self.span.set({"shoal.pieces": self.layout.count, **sums})
        if error is not None:
            self.span.failed(str(error) or repr(error))
        self.span.end()

    def discard(self, pieces: PieceSet) -> None:
        """Pieces are void, unless the whole is right already."""
        if self.readers.is_verified:
            return
        self.readers.voided(pieces)
        if isinstance(self.partial, Passage):
            self.partial.discard()
        else:
            self.partial.discard(pieces)
        self.verifier.begin_again()
        self.readers.changed()

    def hold(self, now: PieceSet, later: PieceSet) -> None:
        """Of a blob that passes by the store, nobody needs more than these pieces, now and later."""
        if isinstance(self.partial, Passage):
            self.partial.hold(now, later)

    async def hash_on(self) -> bool:
        """Hash what is there without a gap; True when all of the blob is hashed. Raises `StoreError`."""
        while not self.over and self.verifier.ready():
            await self.verifier.advance()
        return self.verifier.is_done and not self.over

    async def finish(self) -> None:
        """Give readers the last piece, and put the verified blob into its place; raises `StoreError`."""
        self.partial.check()
        seconds = round(time.monotonic() - self.started_at, 3)
        log.info("blob.verified", digest=self.descriptor.digest, size=self.layout.size, seconds=seconds)
        self.readers.verified()
        if isinstance(self.partial, Partial):
            await self._workers.run_long(self.partial.finish)

    def fail(self, error: Exception) -> None:
        """Nothing more comes."""
        self.readers.fail(error)
        self.verifier.wake()

    async def save(self, *, keep: bool) -> None:
        """Write down what is there for the next try, or remove it; then let the file go, when the last write ends."""
        partial = self.partial
        if isinstance(partial, Passage):
            await partial.close()
            return
        try:
            await self._workers.run_long(partial.checkpoint if keep else partial.abort)
        except StoreError as error:
            log.warning("blob.not_saved", digest=self.descriptor.digest, error=str(error))
        finally:
            partial.close()
            await self._workers.run_long(partial.drain)


def _check_and_write(partial: Partial, index: int, content: bytearray, expected: bytes | None) -> bytes | None:
    digest = piece_digest(content)
    if expected is not None and digest != expected:
        return None
    partial.write(index, content, digest)
    return digest


def store_failed(error: Exception) -> DownloadFailed:
    """A store's error as that of the download."""
    return DownloadFailed(f"the store fails: {error}")
