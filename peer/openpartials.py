"""The partial blobs that are being written, each by one owner, and those that nobody has open."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import structlog

from peer.checkpoint import Checkpoint
from peer.disk import Stamp, StoreError, failing_to, open_sparse
from peer.eviction import Kept
from peer.leftovers import PartialFolder
from peer.partial import Partial
from peer.watched import WatchedFile
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.pieces import PieceLayout

log = structlog.get_logger()


class InUse(NamedTuple):
    """The blobs of one moment that may not go, on account of partial ones."""

    writing: set[Digest]
    reading: set[Digest]
    """Finished ones that are still read by those who read them on their way."""


class OpenPartials:
    """Knows which partial blobs are open. Safe to use from several threads."""

    def __init__(self, folder: PartialFolder, settled: Callable[[Partial, Stamp | None], None]) -> None:
        """`settled` is told of each that was opened when it is finished, with a stamp, or left; it calls `leave`."""
        self._folder = folder
        self._settled = settled
        self._open: set[BlobKey] = set()
        self._finished: list[Partial] = []
        """Those whose file may still be open, for those who read it since before."""
        self._guard = threading.Lock()  # all of the above; held for an instant
        self._turn = threading.Lock()  # one partial blob is opened or removed at a time

    def open(self, key: BlobKey) -> Partial:
        """A blob to be filled, with the pieces that were left.

        Where the data was changed after the checkpoint, as in a crash, they are read back and those that are not right
        are dropped. Raises `StoreError` where it is open already, `StoreFull`, and `ValueError` for a size out of
        bounds.
        """
        layout = PieceLayout.of(key.size)
        with self._turn, self._guard:
            if key in self._open:
                raise StoreError(f"{key.digest} is being written already")
            self._open.add(key)
        files = self._folder.files(key)
        try:
            with failing_to(f"open {files.data}"):
                start = self._folder.resume(key) or Checkpoint(key.digest, layout, 0, {}, 0)
                file = WatchedFile(open_sparse(files.data, key.size, keep=start.have != 0), key.digest)
                partial = Partial(files, file, start, lambda stored: self._settled(partial, stored))
            if start.have and file.left.mtime_ns != start.mtime_ns:
                unproven = partial.unproven()
                log.info("partial.reread", digest=key.digest, dropped=unproven.bit_count())
                partial.discard(unproven)
        except BaseException:
            with self._guard:
                self._open.discard(key)
            raise
        return partial

    def leave(self, partial: Partial, *, finished: bool) -> None:
        """A partial blob is being written no longer. A finished one stays in use until it is closed."""
        with self._guard:
            if finished:
                self._finished = [*(each for each in self._finished if not each.is_closed), partial]
            self._open.discard(partial.key)

    def close(self) -> None:
        """Those that were finished count no more."""
        with self._guard:
            self._finished.clear()

    def resumable(self) -> list[BlobKey]:
        """The blobs of which pieces were left and that nobody has open; what is not to be trusted is removed.

        Raises `StoreError`.
        """
        found = self._folder.begun()
        return [key for key in found if key not in self._open and self._folder.resume(key)]

    def in_use(self) -> InUse:
        """What must not go at this moment."""
        with self._guard:
            self._finished = [partial for partial in self._finished if not partial.is_closed]
            return InUse({key.digest for key in self._open}, {partial.digest for partial in self._finished})

    def parked(self) -> dict[BlobKey, Kept]:
        """Partial blobs that nobody has open; raises `StoreError`."""
        return {key: kept for key, kept in self._folder.sizes().items() if key not in self._open}

    def keys(self) -> list[BlobKey]:
        """The open ones of this moment."""
        with self._guard:
            return list(self._open)

    def lacking(self, key: BlobKey) -> int:
        """Bytes that a partial blob will still take of the disk until it is complete."""
        return max(0, key.size - self._folder.allocated(key))

    def remove(self, key: BlobKey) -> bool:
        """Remove a partial blob for good, unless it is open by now; raises `StoreError`."""
        with self._turn, failing_to(f"remove {key.digest}"):
            if key in self._open:
                return False
            self._folder.remove(key)
        return True

    def clean_up(self) -> None:
        """Remove the data of blobs that were given up while the disk let nothing be removed; raises `StoreError`."""
        for key in self._folder.orphans():
            self.remove(key)
