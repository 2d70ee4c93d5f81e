"""The blob store: an OCI image layout on the disk, with partial blobs beside it.

    oci-layout, index.json       so that standard tools read it
    blobs/ALGORITHM/HEX          finished blobs: verified, synced, then renamed into place
    partial/ALGORITHM-HEX-SIZE.* blobs on their way (`peer.partial`), temporary files
    quarantine/ALGORITHM-HEX     files that are not what was verified under that name
    index.sqlite                 what was verified (`peer.index`)
    lock                         held by the process that has the store open

A blob is served only while its file is the one that was verified, by length, mtime and inode; another one has to be
hashed first. File modes are 0644 and 0755 less the process's umask.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Self

import structlog

from peer.checkpoint import Checkpoint
from peer.disk import (
    FILE_MODE,
    FOLDER_MODE,
    NO_FILE,
    SharedFile,
    Stamp,
    StoreBusy,
    StoreError,
    StoreFull,
    Tampered,
    failing_to,
    open_for_reading,
    open_sparse,
    sync_folder,
    write_durably,
)
from peer.index import Index
from peer.leftovers import PartialFolder, file_name
from peer.partial import Partial
from peer.watched import WatchedFile
from shoal.descriptor import BlobKey
from shoal.digest import Digest, InvalidDigest
from shoal.pieces import PieceLayout

__all__ = ["Partial", "Store", "StoreBusy", "StoreError", "StoreFull", "StoredBlob", "Tampered"]

log = structlog.get_logger()

ALGORITHMS = ("sha256", "sha512")
_LAYOUT_FILES = {
    "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
    "index.json": b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}',
}


class StoredBlob:
    """A finished blob that is open for reading: `size` bytes."""

    def __init__(self, fd: int, size: int) -> None:
        self.size = size
        self._file = SharedFile(fd)

    @property
    def fd(self) -> int:
        """For `pread` and `sendfile`, never after `close`; raises `StoreError` once closed."""
        return self._file.fd

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Store:
    """The blobs of one node. Safe to use from several threads; what it knows of finished blobs is in memory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._partials = PartialFolder(root / "partial", self.path)
        self._quarantine = root / "quarantine"
        self._index = Index(root / "index.sqlite")
        self._blobs: dict[Digest, Stamp] = {}
        self._unverified: set[Digest] = set()
        self._open_partials: set[BlobKey] = set()
        self._guard = threading.Lock()
        self._lock: int | None = None

    def open(self) -> None:
        """Make the folders, take the lock, clean up after a crash and read what is there.

        Raises `StoreBusy` where another process has the store open, else `StoreError`.
        """
        with failing_to(f"open the store {self.root}"):
            self.root.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
            self._lock = self._take_lock()
            try:
                self._lay_out()
                self._read_blobs()
                self._partials.sweep(lambda digest: digest in self._blobs)
            except BaseException:
                self.close()
                raise
        total = sum(stamp.size for stamp in self._blobs.values())
        log.info(
            "store.opened", root=str(self.root), blobs=len(self._blobs), bytes=total, unverified=len(self._unverified)
        )

    def close(self) -> None:
        """Give the lock back. Partial blobs are closed by those who opened them, before."""
        self._index.close()
        self._blobs, self._unverified = {}, set()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def path(self, digest: Digest) -> Path:
        """Where the finished blob is, or will be."""
        return self.root / "blobs" / digest.algorithm / digest.hex

    def size(self, digest: Digest) -> int | None:
        """Bytes of a finished blob, None where it is not here."""
        stamp = self._blobs.get(digest)
        return None if stamp is None else stamp.size

    def digests(self) -> Iterator[tuple[Digest, int]]:
        """All finished blobs of this moment with their sizes in bytes."""
        return iter([(digest, stamp.size) for digest, stamp in list(self._blobs.items())])

    def open_blob(self, digest: Digest) -> StoredBlob | None:
        """A finished blob to read from, None where it is not here.

        Where its file is gone, or is not the one that was verified, the blob is not here any more, and the file goes to
        `quarantine/`. Raises `StoreError` where the file cannot be opened.
        """
        known = self._blobs.get(digest)
        if known is None:
            return None
        with failing_to(f"open {digest}"):
            try:
                fd = open_for_reading(self.path(digest))
            except OSError as error:
                if error.errno not in NO_FILE:
                    raise
            else:
                if known.fits(os.fstat(fd)):
                    return StoredBlob(fd, known.size)
                os.close(fd)
        self._drop(digest, known, "it is not the file that was verified")
        return None

    def remove(self, digest: Digest) -> int:
        """Have a finished blob no longer; returns its size in bytes, 0 where it was not here. Raises `StoreError`.

        Whoever reads it goes on to its end.
        """
        known = self._blobs.get(digest)
        if known is None:
            return 0
        self._forget(digest)
        with failing_to(f"remove {digest}"):
            self.path(digest).unlink(missing_ok=True)
        return known.size

    def partial(self, key: BlobKey) -> Partial:
        """A blob to be filled: where a valid checkpoint was left, with its pieces, else empty.

        Where the data was changed after the checkpoint, as in a crash, its pieces are read back and those that are not
        right are dropped: to be called in a thread. Raises `StoreError` where it is open already, `StoreFull`, and
        `ValueError` for a size out of bounds.
        """
        layout = PieceLayout.of(key.size)
        with self._guard:
            if self._lock is None:
                raise StoreError("the store is not open")
            if key in self._open_partials:
                raise StoreError(f"{key.digest} is being written already")
            self._open_partials.add(key)
        files = self._partials.files(key)
        try:
            with failing_to(f"open {files.data}"):
                start = self._partials.resume(key) or Checkpoint(key.digest, layout, 0, {}, 0)
                file = WatchedFile(open_sparse(files.data, key.size, keep=start.have != 0), key.digest)
                partial = Partial(files, file, start, lambda stored: self._settled(key, stored))
            if start.have and file.left.mtime_ns != start.mtime_ns:
                unproven = partial.unproven()
                log.info("partial.reread", digest=key.digest, dropped=unproven.bit_count())
                partial.discard(unproven)
        except BaseException:
            self._open_partials.discard(key)
            raise
        return partial

    def resumable(self) -> list[BlobKey]:
        """The blobs of which a valid checkpoint was left; invalid ones are removed."""
        found = self._partials.checkpointed()
        return [key for key in found if key not in self._open_partials and self._partials.resume(key)]

    def put(self, digest: Digest, content: bytes) -> None:
        """Store a small blob; raises `StoreError` where `content` has another digest, and `StoreFull`."""
        hasher = digest.hasher()
        hasher.update(content)
        if not digest.matches(hasher):
            raise StoreError(f"the content is not that of {digest}")
        if digest in self._blobs:
            return
        with failing_to(f"store {digest}"):
            stamp = write_durably(self.path(digest), content, by_way_of=self._partials.path)
        self._admit(digest, stamp)

    def delete(self, digest: Digest) -> None:
        """Remove a finished blob, if it is here; those who have it open read on. Raises `StoreError`."""
        self._forget(digest)
        with failing_to(f"delete {digest}"):
            self.path(digest).unlink(missing_ok=True)

    def unverified(self) -> int:
        """How many files were found at the start that are not those that were verified; `recheck` hashes them."""
        return len(self._unverified)

    def recheck(self) -> Iterator[tuple[Digest, bool]]:
        """Hash what is unverified; what is right is served from then on, the rest goes to `quarantine/`."""
        return self._hash_all(self._unverified)

    def verify(self) -> Iterator[tuple[Digest, bool]]:
        """Hash every finished blob; one that is wrong or cannot be read goes to `quarantine/`. True: it is right."""
        return self._hash_all(self._blobs)

    def _hash_all(self, digests: Collection[Digest]) -> Iterator[tuple[Digest, bool]]:
        for digest in list(digests):
            if digest not in digests:
                continue
            known = self._blobs.get(digest)
            try:
                stamp = _stamp_if_right(self.path(digest), digest)
            except OSError as error:
                log.error("blob.unreadable", digest=digest, error=str(error))
                stamp = None
            if stamp is None:
                if self._drop(digest, known, "its content is wrong"):
                    yield digest, False
            elif self._is_still(digest, known):
                if stamp != known:
                    self._admit(digest, stamp)
                yield digest, True

    def _settled(self, key: BlobKey, stored: Stamp | None) -> None:
        if stored is not None:
            self._admit(key.digest, stored)
        self._open_partials.discard(key)

    def _admit(self, digest: Digest, stamp: Stamp) -> None:
        self._index.add(digest, stamp)
        self._blobs[digest] = stamp
        self._unverified.discard(digest)

    def _forget(self, digest: Digest) -> None:
        self._blobs.pop(digest, None)
        self._unverified.discard(digest)
        self._index.remove([digest])

    def _is_still(self, digest: Digest, known: Stamp | None) -> bool:
        """False where a blob was deleted or replaced since `known` was its stamp, which an unverified one has not."""
        return self._blobs.get(digest) == known and (known is not None or digest in self._unverified)

    def _drop(self, digest: Digest, known: Stamp | None, reason: str) -> bool:
        """Serve a blob no longer and move its file away; False where that is gone already, or another one by now."""
        if not self._is_still(digest, known):
            return False
        self._forget(digest)
        with failing_to(f"quarantine {digest}"):
            try:
                self.path(digest).rename(self._quarantine / file_name(digest))
            except FileNotFoundError:
                log.error("blob.missing", digest=digest)
                return False
        log.error("blob.quarantined", digest=digest, reason=reason)
        return True

    def _take_lock(self) -> int:
        fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if isinstance(error, BlockingIOError):
                raise StoreBusy(f"the store {self.root} is in use by another process") from None
            raise
        return fd

    def _lay_out(self) -> None:
        for folder in (self._partials.path, self._quarantine, *(self.root / "blobs" / name for name in ALGORITHMS)):
            folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        for name, content in _LAYOUT_FILES.items():
            if not (self.root / name).exists():
                write_durably(self.root / name, content, by_way_of=self._partials.path)
        sync_folder(self.root / "blobs")
        sync_folder(self.root)

    def _read_blobs(self) -> None:
        """Compare every file with what was verified, by its status alone."""
        indexed = self._index.open()
        for digest, status in self._scan():
            stamp = indexed.pop(digest, None)
            if stamp is not None and stamp.fits(status):
                self._blobs[digest] = stamp
            else:
                self._unverified.add(digest)
        if indexed:
            log.warning("store.missing", blobs=len(indexed))
            self._index.remove(indexed)

    def _scan(self) -> Iterator[tuple[Digest, os.stat_result]]:
        for algorithm in ALGORITHMS:
            with os.scandir(self.root / "blobs" / algorithm) as entries:
                for entry in entries:
                    try:
                        digest = Digest(f"{algorithm}:{entry.name}")
                    except InvalidDigest:
                        log.warning("store.ignored", path=entry.path)
                        continue
                    if entry.is_file(follow_symlinks=False):
                        yield digest, entry.stat(follow_symlinks=False)


def _stamp_if_right(path: Path, digest: Digest) -> Stamp | None:
    """What tells the file, where its content has this digest and did not change while it was hashed."""
    with open(path, "rb", opener=lambda _, flags: open_for_reading(path)) as file:
        stamp = Stamp.of(os.fstat(file.fileno()))
        right = hashlib.file_digest(file, digest.algorithm).hexdigest() == digest.hex
        return stamp if right and stamp.fits(os.fstat(file.fileno())) else None
