"""A blob on its way into the store: a sparse file beside the finished blobs, and the checkpoint that a restart reads.

Two orders make it safe. Data is synced before a checkpoint claims it; and where a piece that a checkpoint may claim was
discarded, a new checkpoint is written before the piece's place is. What is in `have` is never written to: the bytes
that were hashed are the ones that get the name. `peer.watched` notices where somebody else changed them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peer.checkpoint import Checkpoint
from peer.disk import SharedFile, Stamp, StoreError, failing_to, sync_folder, write_durably
from peer.journal import Journal
from peer.watched import WatchedFile
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.pieces import MIB, PIECE_DIGEST_SIZE, PieceLayout, PieceSet, iterate, piece_digest

CHECKPOINT_BYTES = 64 * MIB
CHECKPOINT_SECONDS = 1.0
"""A power loss costs so many bytes, or seconds, of pieces at most: syncing each would cost more than fetching it again.
A process that is killed loses none that was written (`peer.journal`)."""

_SPOT_PIECES = 8
_SPOT_BYTES = 16 * MIB
"""What `finish` reads back at most, besides the first and the last piece: some milliseconds of a disk's cache."""


@dataclass(frozen=True, slots=True)
class PartialFiles:
    """Where a partial blob's data, checkpoint and journal lie, and where the finished blob goes."""

    data: Path
    checkpoint: Path
    journal: Path
    blob: Path


class Partial:
    """A blob's pieces on the disk. Made by `Store.partial`.

    `mark`, `discard` and `due` belong to one thread, the event loop's. `write`, `read`, `checkpoint` and `finish` may
    be called from any, also at the same time. Once somebody else has changed the file, these raise `Tampered`.
    """

    def __init__(
        self, files: PartialFiles, file: WatchedFile, start: Checkpoint, settled: Callable[[Stamp | None], None]
    ) -> None:
        """`start` is what is on the disk already. `settled` is told once, with a stamp where the blob is in place."""
        self.digest: Digest = start.digest
        self.layout: PieceLayout = start.layout
        self.have: PieceSet = start.have
        """The pieces written; those after the last checkpoint are included."""
        self.table: dict[int, bytes] = dict(start.table)
        """The digests known of pieces in `have`, 16 bytes each."""
        self._files = files
        self._journal = Journal(files.journal)
        self._file = file
        self._settled: Callable[[Stamp | None], None] | None = settled
        self._durable = start
        self._covered = start.have
        self._stale: PieceSet = 0
        self._writing: PieceSet = 0
        self._since: float | None = None
        self._sealed = False
        self._closed = False
        self._turn = threading.Lock()  # one checkpoint, `finish` or `abort` at a time; held over syncs
        self._guard = threading.Condition()  # the fields above; held for an instant

    @property
    def key(self) -> BlobKey:
        return BlobKey(self.digest, self.layout.size)

    @property
    def is_closed(self) -> bool:
        """Whether nobody reads it any more."""
        return self._closed

    @property
    def file(self) -> SharedFile:
        """The data, to be used inside `with partial.file as fd`; entering raises `StoreError` once closed."""
        return self._file

    @property
    def fd(self) -> int:
        """For `pread` and `sendfile`, never after `close`; raises `StoreError` once closed."""
        return self._file.fd

    def write(self, index: int, content: bytes | bytearray | memoryview, digest: bytes | None = None) -> None:
        """Write the whole of piece `index`; `mark` makes it count. A piece in `have` is left as it is.

        `digest`: its `piece_digest`, by which a restart finds the piece that no checkpoint claims.

        Waits while another thread writes the same piece. Raises `StoreError`, `StoreFull`, and `ValueError` where the
        content is not of the piece's length.
        """
        self._check(index)
        view = memoryview(content).cast("B")
        if len(view) != self.layout.length(index):
            raise ValueError(f"{len(view)} bytes for piece {index} of {self.layout.length(index)} bytes")
        if not self._claim(index):
            return
        try:
            self._file.write(self.layout.span(index).start, view)
            if digest is not None:
                self._journal.add(index, digest)
        finally:
            with self._guard:
                self._writing &= ~(1 << index)
                self._guard.notify_all()
            self._let_go()

    def mark(self, index: int, digest: bytes | None) -> None:
        """Count piece `index`, which was written; `digest` is its `piece_digest`, where known.

        Does nothing while another thread writes the piece again, since then nobody knows what is there.
        """
        self._check(index)
        if digest is not None and len(digest) != PIECE_DIGEST_SIZE:
            raise ValueError(f"a piece's digest of {len(digest)} bytes")
        with self._guard:
            if self._writing >> index & 1:
                return
            if digest is not None:
                self.table[index] = digest
            self.have |= 1 << index

    def discard(self, pieces: PieceSet) -> None:
        """Forget pieces that turned out to be wrong; raises `StoreError` where the blob is finished already."""
        with self._guard:
            if self._sealed:
                raise StoreError(f"{self.digest} is not partial any more")
            self.have &= ~pieces
            self._covered &= ~pieces
            self._stale |= pieces & self.layout.all
            for index in [index for index in self.table if pieces >> index & 1]:
                del self.table[index]
        self._journal.void(pieces & self.layout.all)

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on, which must lie in pieces of `have`; raises `StoreError`."""
        return self._file.read(offset, length)

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` with the bytes from `offset` on, which must lie in pieces of `have`; raises `StoreError`."""
        self._file.read_into(offset, target)

    def check(self) -> None:
        """Raise `Tampered` where somebody else changed the file, as far as `WatchedFile` sees it; never waits."""
        self._file.check()

    def unproven(self) -> PieceSet:
        """The pieces of `have` that do not read back as `table` says; takes as long as reading all of them."""
        wrong = 0
        for index in iterate(self.have):
            try:
                right = self._reads_back(index)
            except StoreError:
                right = False
            if not right:
                wrong |= 1 << index
        return wrong

    def snapshot(self) -> Checkpoint:
        """What is had at this moment; later calls of `mark` do not show in it."""
        have = self.have
        return Checkpoint(self.digest, self.layout, have, dict(self.table), self._file.left.mtime_ns)

    def due(self, now: float) -> bool:
        """Whether enough is new since the last checkpoint; `now` in seconds of a clock that never goes back.

        Says so once: the caller is to call `checkpoint` then. A complete blob never needs one: `finish` comes next.
        """
        with self._guard:
            fresh = self.have & ~self._covered
            if not fresh or self.have == self.layout.all:
                self._since = None
                return False
            if self._since is None:
                self._since = now
            if now - self._since < CHECKPOINT_SECONDS and self.layout.bytes_of(fresh) < CHECKPOINT_BYTES:
                return False
            self._covered, self._since = self.have, None
            return True

    def checkpoint(self) -> None:
        """Sync what is had now, then write that down. Takes as long as the disk does: call it in a thread.

        Raises `StoreError`, `StoreFull`; the previous checkpoint then stays.
        """
        with self._exclusive():
            self._file.refuse_tampered()
            if self._sealed:
                return
            with self._guard:
                stale, snapshot = self._stale, self.snapshot()
                self._covered, self._since = snapshot.have, None
            if snapshot != self._durable:
                try:
                    self._write_down(snapshot)
                except BaseException:
                    with self._guard:
                        self._covered &= self._durable.have
                    raise
                self._durable = snapshot
            with self._guard:
                self._stale &= ~stale

    def finish(self) -> Path:
        """Sync the blob and move it to its place; the caller has verified the whole of it. Call it in a thread.

        Since the blob was hashed from memory, the file is looked at once more: by its length and mtime, and by some
        pieces that are read back, always the first and the last (`WatchedFile` says what that does not see). Reading
        goes on until `close`. Raises `StoreError`, `StoreFull`; then only `abort` or `close` is left to do.
        """
        with self._exclusive():
            self._file.refuse_tampered()
            with self._guard:
                if self._sealed:
                    raise StoreError(f"{self.digest} is not partial any more")
                if self.have != self.layout.all:
                    raise StoreError(f"{self.digest} is not complete")
                self._sealed = True
            self._file.sync()
            with failing_to(f"move {self.digest} into place"):
                self._look_back()
                self._files.data.rename(self._files.blob)
                sync_folder(self._files.blob.parent)
                self._files.checkpoint.unlink(missing_ok=True)
                self._files.journal.unlink(missing_ok=True)
            self._settle(self._file.left)
        return self._files.blob

    def abort(self) -> None:
        """Remove the files, unless the blob is finished or closed; reading goes on until `close`.

        Waits for a running checkpoint: call it in a thread. Raises `StoreError`.
        """
        with self._guard:
            self._sealed = True
        with self._exclusive():
            if self._settled is None:
                return
            with failing_to(f"remove {self.digest}"):
                if self._files.checkpoint.exists():
                    self._files.checkpoint.unlink()
                    sync_folder(self._files.checkpoint.parent)  # no later file of this name may meet it after a crash
                self._files.journal.unlink(missing_ok=True)
                self._files.data.unlink(missing_ok=True)
            self._settle(None)

    def close(self) -> None:
        """Let the file go and keep it on the disk.

        Does not wait: operations that run in other threads go on to their end, later ones raise `StoreError`. The store
        gives the blob out again at once, or when writes and checkpoints that still run have ended.
        """
        with self._guard:
            self._sealed = self._closed = True
        self._file.close()
        self._let_go()

    def drain(self) -> None:
        """Wait, after `close`, until what still ran then has ended: the store gives the blob out again. In a thread."""
        with self._guard:
            self._guard.wait_for(lambda: not self._writing)
        with self._turn:
            self._settle(None)

    def _claim(self, index: int) -> bool:
        """Begin a write: False where the piece is had already. No checkpoint claims it from then on."""
        bit = 1 << index
        while True:
            with self._guard:
                self._guard.wait_for(lambda: not self._writing & bit)
                self._file.refuse_tampered()
                if self.have & bit:
                    return False
                if self._sealed:
                    raise StoreError(f"{self.digest} is not partial any more")
                if not self._stale & bit:
                    self._writing |= bit
                    return True
            self.checkpoint()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        try:
            with self._turn:
                yield
        finally:
            self._let_go()

    def _let_go(self) -> None:
        """Settle a closed blob now, or leave it to the operation that still runs, which comes here when it ends."""
        if self._closed and not self._writing and self._turn.acquire(blocking=False):
            try:
                self._settle(None)
            finally:
                self._turn.release()

    def _write_down(self, snapshot: Checkpoint) -> None:
        self._file.sync()
        with failing_to(f"write the checkpoint of {self.digest}"):
            write_durably(self._files.checkpoint, snapshot.encode(), by_way_of=self._files.checkpoint.parent)

    def _settle(self, stored: Stamp | None) -> None:
        settled, self._settled = self._settled, None
        if settled is not None:
            settled(stored)

    def _look_back(self) -> None:
        """Raises `Tampered` where the file under the partial blob's name is not the one that was written."""
        count, piece_size = self.layout.count, self.layout.piece_size
        spots = min(count, _SPOT_PIECES, max(2, _SPOT_BYTES // piece_size))
        chosen = {place * (count - 1) // max(1, spots - 1) for place in range(spots)}
        if not all(self._reads_back(index) for index in chosen & self.table.keys()):
            self._file.condemn()
        self._file.check_path(self._files.data)

    def _reads_back(self, index: int) -> bool:
        """Whether a piece on the disk has the digest that `table` gives it; False where `table` has none."""
        span = self.layout.span(index)
        known = self.table.get(index)
        return known is not None and piece_digest(self.read(span.start, span.length)) == known

    def _check(self, index: int) -> None:
        if not self.layout.is_valid(index):
            raise ValueError(f"piece {index} of {self.layout.count}")
