"""A blob on its way: its file, its readers and its verifier. What is fetched from where, the machine decides."""

from __future__ import annotations

import asyncio
import time

import structlog

from peer.disk import StoreError
from peer.errors import DownloadFailed
from peer.partial import Partial
from peer.readers import GrowingPiece, Readers
from peer.verifier import Verifier
from peer.workers import Workers
from shoal.descriptor import Descriptor
from shoal.pieces import PieceLayout, PieceSet, piece_digest

log = structlog.get_logger()


class BlobInProgress:
    """One blob's pieces on the disk and in memory. Belongs to the event loop."""

    def __init__(self, descriptor: Descriptor, partial: Partial, readers: Readers, workers: Workers) -> None:
        self.descriptor = descriptor
        self.partial = partial
        self.readers = readers
        self.layout: PieceLayout = partial.layout
        self.started_at = time.monotonic()
        self.finished = asyncio.Event()
        """Set when nothing more becomes of it, well or not."""
        self.verifier = Verifier(partial, workers)
        self._workers = workers

    @property
    def over(self) -> bool:
        return self.readers.is_verified or self.readers.error is not None

    def grow(self, index: int) -> GrowingPiece:
        """A piece begins to stream in."""
        growing = self.readers.growing[index] = GrowingPiece(bytearray(self.layout.length(index)))
        return growing

    async def write(self, index: int, content: bytearray, expected: bytes | None) -> bytes | None:
        """Check a piece and write it; returns its digest, or None where that is not `expected`. `land` makes it count.

        Waits where the hash of the whole does not keep up. Raises `StoreError`.
        """
        while self.verifier.lags and not self.over:
            await self.verifier.moved()
        return await self._workers.run(self._check_and_write, index, content, expected)

    def land(self, index: int, content: bytearray, digest: bytes) -> None:
        """A piece that was written counts; `content` must not change any more."""
        self.partial.mark(index, digest)
        self.verifier.keep(index, content)
        self.readers.landed(index, content, digest)

    def discard(self, pieces: PieceSet) -> None:
        """Pieces are void, unless the whole is right already."""
        if self.readers.is_verified:
            return
        self.readers.voided(pieces)
        self.partial.discard(pieces)
        self.verifier.begin_again()
        self.readers.changed()

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
        await self._workers.run_long(self.partial.finish)

    def fail(self, error: Exception) -> None:
        """Nothing more comes."""
        self.readers.fail(error)
        self.verifier.wake()

    async def save(self, *, keep: bool) -> None:
        """Write down what is there for the next try, or remove it; then let the file go, when the last write ends."""
        try:
            await self._workers.run_long(self.partial.checkpoint if keep else self.partial.abort)
        except StoreError as error:
            log.warning("blob.not_saved", digest=self.descriptor.digest, error=str(error))
        finally:
            self.partial.close()
            await self._workers.run_long(self.partial.drain)

    def _check_and_write(self, index: int, content: bytearray, expected: bytes | None) -> bytes | None:
        digest = piece_digest(content)
        if expected is not None and digest != expected:
            return None
        self.partial.write(index, content)
        return digest


def store_failed(error: Exception) -> DownloadFailed:
    """A store's error as that of the download."""
    return DownloadFailed(f"the store fails: {error}")
