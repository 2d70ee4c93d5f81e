"""A blob on its way into the store: a sparse file beside the finished blobs, and the checkpoint that a restart reads.

Two orders make it safe. Data is synced before a checkpoint claims it; and where a piece that a checkpoint may claim was
discarded, a new checkpoint is written before the piece's place is. What is in `have` is never written to: the bytes
that were hashed are the ones that get the name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peer.checkpoint import Checkpoint
from peer.disk import (
    SharedFile,
    StoreError,
    failing_to,
    read_all,
    read_all_into,
    sync_data,
    sync_folder,
    write_all,
    write_durably,
)
from shoal.digest import Digest
from shoal.pieces import MIB, PIECE_DIGEST_SIZE, PieceLayout, PieceSet

CHECKPOINT_BYTES = 64 * MIB
CHECKPOINT_SECONDS = 1.0
"""A crash loses so many bytes, or seconds, of pieces at most: syncing each would cost more than fetching it again."""


@dataclass(frozen=True, slots=True)
class PartialFiles:
    """Where a partial blob's data and checkpoint lie, and where the finished blob goes."""

    data: Path
    checkpoint: Path
    blob: Path


class Partial:
    """A blob's pieces on the disk. Made by `Store.partial`.

    `mark`, `discard` and `due` belong to one thread, the event loop's. `write`, `read`, `checkpoint` and `finish` may
    be called from any, also at the same time.
    """

    def __init__(
        self, files: PartialFiles, file: SharedFile, start: Checkpoint, settled: Callable[[bool], None]
    ) -> None:
        """`start` is what is on the disk already; `settled` is told once, True where the blob is in its place."""
        self.digest: Digest = start.digest
        self.layout: PieceLayout = start.layout
        self.have: PieceSet = start.have
        """The pieces written; those after the last checkpoint are included."""
        self.table: dict[int, bytes] = dict(start.table)
        """The digests known of pieces in `have`, 16 bytes each."""
        self._files = files
        self._file = file
        self._settled: Callable[[bool], None] | None = settled
        self._durable = start
        self._covered = start.have
        self._stale: PieceSet = 0
        self._writing: PieceSet = 0
        self._since: float | None = None
        self._sealed = False
        self._closed = False
        self._lost = False
        self._turn = threading.Lock()  # one checkpoint, `finish` or `abort` at a time; held over syncs
        self._writer = threading.Lock()  # the kernel lets one thread write to a file at a time, and the others spin
        self._guard = threading.Condition()  # the fields above; held for an instant

    @property
    def fd(self) -> int:
        """For `pread` and `sendfile`, never after `close`; raises `StoreError` once closed."""
        return self._file.fd

    def write(self, index: int, content: bytes | bytearray | memoryview) -> None:
        """Write the whole of piece `index`; `mark` makes it count. A piece in `have` is left as it is.

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
            with self._writer, self._file as fd, failing_to(f"write piece {index} of {self.digest}"):
                write_all(fd, view, self.layout.span(index).start)
        finally:
            with self._guard:
                self._writing &= ~(1 << index)
                self._guard.notify_all()

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

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on, which must lie in pieces of `have`; raises `StoreError`."""
        with self._file as fd, failing_to(f"read {length} bytes at {offset} of {self.digest}"):
            return read_all(fd, offset, length)

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` with the bytes from `offset` on, which must lie in pieces of `have`; raises `StoreError`."""
        with self._file as fd, failing_to(f"read {len(target)} bytes at {offset} of {self.digest}"):
            read_all_into(fd, target, offset)

    def snapshot(self) -> Checkpoint:
        """What is had at this moment; later calls of `mark` do not show in it."""
        have = self.have
        return Checkpoint(self.digest, self.layout, have, dict(self.table))

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

        Reading goes on until `close`. Raises `StoreError`, `StoreFull`; then only `abort` or `close` is left to do.
        """
        with self._exclusive():
            with self._guard:
                if self._sealed:
                    raise StoreError(f"{self.digest} is not partial any more")
                if self.have != self.layout.all:
                    raise StoreError(f"{self.digest} is not complete")
                self._sealed = True
            self._sync()
            with failing_to(f"move {self.digest} into place"):
                self._files.data.rename(self._files.blob)
                sync_folder(self._files.blob.parent)
                self._files.checkpoint.unlink(missing_ok=True)
            self._settle(stored=True)
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
                self._files.data.unlink(missing_ok=True)
            self._settle(stored=False)

    def close(self) -> None:
        """Let the file go and keep it on the disk; what was not in a checkpoint is fetched again after a restart.

        Does not wait: operations that run in other threads go on to their end, later ones raise `StoreError`. The store
        gives the blob out again when they have ended.
        """
        with self._guard:
            self._sealed = self._closed = True
        self._file.close()
        self._let_go()

    def _claim(self, index: int) -> bool:
        """Begin a write: False where the piece is had already. No checkpoint claims it from then on."""
        bit = 1 << index
        while True:
            with self._guard:
                self._guard.wait_for(lambda: not self._writing & bit)
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
        """Settle a closed blob now, or leave it to the operation that has its turn, which comes here when it ends."""
        if self._closed and self._turn.acquire(blocking=False):
            try:
                self._settle(stored=False)
            finally:
                self._turn.release()

    def _write_down(self, snapshot: Checkpoint) -> None:
        self._sync()
        with failing_to(f"write the checkpoint of {self.digest}"):
            write_durably(self._files.checkpoint, snapshot.encode(), by_way_of=self._files.checkpoint.parent)

    def _sync(self) -> None:
        """A sync that failed is never tried again: the kernel forgets the pages, and the next would wrongly succeed."""
        if self._lost:
            raise StoreError(f"an earlier sync of {self.digest} failed")
        with self._file as fd, failing_to(f"sync {self.digest}"):
            self._lost = True
            sync_data(fd)
            self._lost = False

    def _settle(self, *, stored: bool) -> None:
        settled, self._settled = self._settled, None
        if settled is not None:
            settled(stored)

    def _check(self, index: int) -> None:
        if not self.layout.is_valid(index):
            raise ValueError(f"piece {index} of {self.layout.count}")
