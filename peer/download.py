"""One blob on its way: pieces come in from anywhere and in any order, readers stream what is there, one hash decides.

Whoever asks for a blob that is underway joins its download. The last piece of a blob is given to no reader before the
digest of the whole blob has matched.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import structlog

from peer.errors import DigestMismatch, DownloadFailed
from peer.hashing import BlobHash
from peer.partial import Partial
from peer.store import StoreError
from peer.workers import Workers
from shoal.descriptor import Descriptor
from shoal.pieces import MIB, PieceIndex, PieceLayout, iterate, leading_run, piece_digest
from shoal.reference import Location

log = structlog.get_logger()

_READ_SIZE = 1 * MIB


@dataclass(slots=True)
class GrowingPiece:
    """A piece that streams in from the origin: its first `filled` bytes may be read already."""

    buffer: bytearray
    filled: int = 0


class Download:
    """A blob that is not complete yet.

    `gained(index, rare)` is called for each piece that is in the store and checked, `ended` once when the download is
    complete, has failed or was found to be wrong.
    """

    def __init__(
        self,
        blob: Descriptor,
        location: Location,
        partial: Partial,
        workers: Workers,
        *,
        gained: Callable[[Download, PieceIndex, bool], None],
        ended: Callable[[Download], None],
    ) -> None:
        self.blob = blob
        self.location = location
        self.partial = partial
        self.layout: PieceLayout = partial.layout
        self.table: dict[int, bytes] = dict(partial.table)
        self.growing: dict[int, GrowingPiece] = {}
        self.readers: dict[int, int] = {}
        self.taking = 0
        self.epoch = 0
        self.started_at = self.moved_at = self.waited_since = time.monotonic()
        """When it began, when it last came nearer to its end, since when readers wait; seconds of that clock."""
        self.verified = False
        self.swarmed = False
        """Whether pieces came from other peers."""
        self.error: Exception | None = None
        self.demanded = False
        self.finished = asyncio.Event()
        self.users = 0
        self.unused = asyncio.Event()
        self.unused.set()
        self._workers = workers
        self._gained = gained
        self._ended = ended
        self._hash = BlobHash(partial, workers)
        self._landing: dict[int, asyncio.Event] = {}
        """Pieces that are being written: one writer at a time, else what was hashed may not be what is there."""
        self._waiting: set[asyncio.Future[None]] = set()
        self._hashing: asyncio.Task[None] | None = None
        self._next_reader = 0
        if partial.have:
            self._hash_on()

    @property
    def have(self) -> int:
        """The set of pieces that are there."""
        return self.partial.have

    @property
    def missing(self) -> int:
        return self.layout.all & ~self.partial.have

    @property
    def over(self) -> bool:
        return self.verified or self.error is not None

    @property
    def waited_for(self) -> bool:
        """Whether a reader waits for bytes."""
        return bool(self._waiting)

    # --- pieces in ------------------------------------------------------------------------------------------------

    async def take(self, index: int, content: bytearray, expected: bytes | None, *, rare: bool = False) -> bytes | None:
        """Check a whole piece, write it, and let readers have it.

        Returns its digest, or None where it does not match `expected`. `rare`: it comes from the origin. `content` must
        not change afterwards. Comes back late where the hash of the whole blob does not keep up.
        """
        while index in self._landing:
            await self._landing[index].wait()
        if self.over or self.have >> index & 1:
            return self.partial.table.get(index, b"") or piece_digest(content)
        epoch = self.epoch
        self.taking += 1
        landed = self._landing[index] = asyncio.Event()
        try:
            digest = await self._workers.run(self._check_and_write, index, content, expected)
        except (StoreError, OSError) as error:
            self.fail(DownloadFailed(f"the store does not take it: {error}"))
            return None
        else:
            if digest is not None and epoch == self.epoch and not self.over:
                self._took(index, content, digest, rare=rare)
        finally:
            self.taking -= 1
            del self._landing[index]
            landed.set()
        while epoch == self.epoch and not self.over and self._hash.lags(self.have):
            await self._hash.moved()
        return digest

    def _took(self, index: int, content: bytearray, digest: bytes, *, rare: bool) -> None:
        """A piece is checked and written."""
        self.partial.mark(index, digest)
        self._hash.keep(index, content)
        self.swarmed |= not rare
        self.moved_at = time.monotonic()
        self.growing.pop(index, None)
        self.changed()
        self._hash_on()
        self._gained(self, PieceIndex(index), rare)

    def _check_and_write(self, index: int, content: bytearray, expected: bytes | None) -> bytes | None:
        digest = piece_digest(content)
        if expected is not None and digest != expected:
            return None
        self.partial.write(index, content)
        return digest

    def changed(self) -> None:
        """Wake the readers."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    # --- the end --------------------------------------------------------------------------------------------------

    def fail(self, error: Exception) -> None:
        """Give up: every reader gets `error`; what is there stays in the store for the next try."""
        if not self.over:
            self.error = error
            self._hash.wake()
            self.changed()
            self._ended(self)

    def restart(self) -> None:
        """Drop all pieces and begin anew. Readers that were given bytes already fail."""
        self.epoch += 1
        self.partial.discard(self.layout.all)
        self.table.clear()
        self.growing.clear()
        self._hash.wake()
        self._hash = BlobHash(self.partial, self._workers)
        self.changed()

    def _hash_on(self) -> None:
        """Go on with the hash of the whole blob, as far as its pieces are there without a gap."""
        if self._hashing is None and not self.over and self._hash.ready(self.have):
            self._hashing = asyncio.create_task(self._hash_pieces())

    async def _hash_pieces(self) -> None:
        blob_hash = self._hash
        try:
            while not self.over and blob_hash is self._hash and (count := blob_hash.ready(self.have)):
                await blob_hash.advance(count)
        except (StoreError, OSError) as error:
            self.fail(DownloadFailed(f"the store does not give back what it took: {error}"))
        finally:
            self._hashing = None
        if blob_hash is not self._hash:
            self._hash_on()
        elif blob_hash.reached == self.layout.count and not self.over:
            await self._judge()

    async def _judge(self) -> None:
        if not self._hash.matches():
            log.error("blob.mismatch", digest=self.blob.digest, size=self.layout.size)
            self.fail(DigestMismatch(f"what came is not {self.blob.digest}"))
            return
        self.verified = True
        seconds = round(time.monotonic() - self.started_at, 3)
        log.info("blob.verified", digest=self.blob.digest, size=self.layout.size, seconds=seconds)
        self.changed()
        try:
            await self._workers.run_long(self.partial.finish)
        except (StoreError, OSError) as error:
            log.error("blob.not_stored", digest=self.blob.digest, error=str(error))
            self.error = DownloadFailed(str(error))
        self._ended(self)

    # --- readers --------------------------------------------------------------------------------------------------

    def can_read(self, offset: int) -> int:
        """How many bytes at `offset` may be given to a reader now, up to one read."""
        index = self.layout.at(offset)
        run = leading_run(self.have, index)
        if index + run > self.layout.last and not self.verified:
            run = self.layout.last - index
        if run > 0:
            return min(self.layout.span(index + run - 1).end - offset, _READ_SIZE)
        growing = self.growing.get(index)
        if growing is not None and index != self.layout.last:
            return max(0, min(growing.filled - (offset - self.layout.span(index).start), _READ_SIZE))
        return 0

    def use(self, step: int) -> None:
        """Somebody begins (1) or stops (-1) to hold this download: its file stays open while anybody does."""
        self.users += step
        if self.users:
            self.unused.clear()
        else:
            self.unused.set()

    async def wait(self, offset: int, epoch: int | None = None) -> int:
        """Wait until bytes at `offset` may be read, and say how many; raises what the download failed with.

        `epoch`: that of bytes which were read already, and which must not have turned out to be wrong since.
        """
        while True:
            if epoch is not None and epoch != self.epoch:
                raise DownloadFailed("bytes that were sent already have turned out to be wrong")
            count = self.can_read(offset)
            if count > 0 or (offset >= self.layout.size and self.verified):
                return count
            if self.error is not None:
                raise self.error
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if not self._waiting:
                self.waited_since = time.monotonic()
            self._waiting.add(waiter)
            try:
                await waiter
            finally:
                self._waiting.discard(waiter)

    async def read(self, start: int, end: int) -> AsyncIterator[bytes | memoryview]:
        """Bytes `start` to `end` as they come; raises `DownloadFailed` or `OriginError` where they do not."""
        reader, self._next_reader = self._next_reader, self._next_reader + 1
        epoch: int | None = None
        offset = start
        try:
            while offset < end:
                self.readers[reader] = self.layout.at(offset)
                count = min(await self.wait(offset, epoch), end - offset)
                epoch = self.epoch
                yield self._bytes_at(offset, count)
                offset += count
        finally:
            self.readers.pop(reader, None)

    def _bytes_at(self, offset: int, count: int) -> bytes | memoryview:
        index = self.layout.at(offset)
        growing = self.growing.get(index)
        if growing is not None and not self.have >> index & 1:
            begin = offset - self.layout.span(index).start
            return memoryview(growing.buffer)[begin : begin + count]
        return self.partial.read(offset, count)

    def known_digests(self) -> tuple[int, bytes]:
        """The pieces of which the digests are known here, and those digests in ascending order."""
        pieces = 0
        for index in self.partial.table:
            pieces |= 1 << index
        pieces &= self.have
        return pieces, b"".join(self.partial.table[index] for index in iterate(pieces))
