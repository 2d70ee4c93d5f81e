"""The blob store: an OCI image layout on the disk, with partial blobs beside it.

    oci-layout, index.json      so that standard tools read it
    blobs/ALGORITHM/HEX         finished blobs: verified, synced, then renamed into place
    partial/ALGORITHM-HEX.*     blobs on their way (`peer.partial`), temporary files
    quarantine/ALGORITHM-HEX    what `verify` found to be wrong
    lock                        held by the process that has the store open

File modes are 0644 and 0755 less the process's umask.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import structlog

from peer.checkpoint import MAX_CHECKPOINT_SIZE, Checkpoint, InvalidCheckpoint
from peer.disk import (
    FILE_MODE,
    FOLDER_MODE,
    TEMPORARY_SUFFIX,
    SharedFile,
    StoreBusy,
    StoreError,
    StoreFull,
    failing_to,
    sync_folder,
    write_durably,
)
from peer.partial import Partial, PartialFiles
from shoal.digest import Digest, InvalidDigest
from shoal.pieces import PieceLayout

__all__ = ["Partial", "Store", "StoreBusy", "StoreError", "StoreFull"]

log = structlog.get_logger()

ALGORITHMS = ("sha256", "sha512")
_LAYOUT_FILES = {
    "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
    "index.json": b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}',
}
_DATA_SUFFIX = ".data"
_CHECKPOINT_SUFFIX = ".state"


class Store:
    """The blobs of one node. Safe to use from several threads; what it knows of finished blobs is in memory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._partials = root / "partial"
        self._quarantine = root / "quarantine"
        self._blobs: dict[Digest, int] = {}
        self._open_partials: set[Digest] = set()
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
                self._blobs = dict(self._scan())
                self._sweep()
            except BaseException:
                self.close()
                raise
        log.info("store.opened", root=str(self.root), blobs=len(self._blobs), bytes=sum(self._blobs.values()))

    def close(self) -> None:
        """Give the lock back. Partial blobs are closed by those who opened them, before."""
        self._blobs = {}
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def path(self, digest: Digest) -> Path:
        """Where the finished blob is, or will be."""
        return self.root / "blobs" / digest.algorithm / digest.hex

    def size(self, digest: Digest) -> int | None:
        """Bytes of a finished blob, None where it is not here."""
        return self._blobs.get(digest)

    def digests(self) -> Iterator[tuple[Digest, int]]:
        """All finished blobs of this moment with their sizes in bytes."""
        return iter(list(self._blobs.items()))

    def partial(self, digest: Digest, size: int) -> Partial:
        """A blob of `size` bytes to be filled: where a valid checkpoint was left, with its pieces, else empty.

        Raises `StoreError` where it is open already, `StoreFull`, and `ValueError` for a size out of bounds.
        """
        layout = PieceLayout.of(size)
        with self._guard:
            if self._lock is None:
                raise StoreError("the store is not open")
            if digest in self._open_partials:
                raise StoreError(f"{digest} is being written already")
            self._open_partials.add(digest)
        files = self._files(digest)
        try:
            with failing_to(f"open {files.data}"):
                start = self._resume(digest, size) or Checkpoint(digest, layout, 0, {})
                file = SharedFile(_open_data(files.data, size, keep=start.have != 0))
        except BaseException:
            self._open_partials.discard(digest)
            raise
        return Partial(files, file, start, lambda stored: self._settled(digest, size, stored))

    def resumable(self) -> list[tuple[Digest, int]]:
        """The blobs of which a valid checkpoint was left, with their sizes in bytes; invalid ones are removed."""
        with failing_to(f"read {self._partials}"):
            found = [
                _digest_of(entry.name)
                for entry in os.scandir(self._partials)
                if entry.name.endswith(_CHECKPOINT_SUFFIX)
            ]
            starts = [self._resume(digest) for digest in found if digest and digest not in self._open_partials]
        return [(start.digest, start.layout.size) for start in starts if start is not None]

    def put(self, digest: Digest, content: bytes) -> None:
        """Store a small blob; raises `StoreError` where `content` has another digest, and `StoreFull`."""
        hasher = digest.hasher()
        hasher.update(content)
        if not digest.matches(hasher):
            raise StoreError(f"the content is not that of {digest}")
        if digest in self._blobs:
            return
        with failing_to(f"store {digest}"):
            write_durably(self.path(digest), content, by_way_of=self._partials)
        self._blobs[digest] = len(content)

    def delete(self, digest: Digest) -> None:
        """Remove a finished blob, if it is here; those who have it open read on. Raises `StoreError`."""
        self._blobs.pop(digest, None)
        with failing_to(f"delete {digest}"):
            self.path(digest).unlink(missing_ok=True)

    def verify(self) -> Iterator[tuple[Digest, bool]]:
        """Hash every finished blob; one that is wrong or cannot be read goes to `quarantine/`. True: it is right."""
        for digest, size in self.digests():
            try:
                good = _is_right(self.path(digest), digest)
            except FileNotFoundError:
                self._blobs.pop(digest, None)
                continue
            except OSError as error:
                log.error("blob.unreadable", digest=digest, error=str(error))
                good = False
            if not good:
                self._blobs.pop(digest, None)
                log.error("blob.quarantined", digest=digest, size=size)
                with failing_to(f"quarantine {digest}"):
                    self.path(digest).rename(self._quarantine / _name(digest))
            yield digest, good

    def _settled(self, digest: Digest, size: int, stored: bool) -> None:
        if stored:
            self._blobs[digest] = size
        self._open_partials.discard(digest)

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
        for folder in (self._partials, self._quarantine, *(self.root / "blobs" / name for name in ALGORITHMS)):
            folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        for name, content in _LAYOUT_FILES.items():
            if not (self.root / name).exists():
                write_durably(self.root / name, content, by_way_of=self._partials)
        sync_folder(self.root / "blobs")
        sync_folder(self.root)

    def _scan(self) -> Iterator[tuple[Digest, int]]:
        for algorithm in ALGORITHMS:
            with os.scandir(self.root / "blobs" / algorithm) as entries:
                for entry in entries:
                    try:
                        digest = Digest(f"{algorithm}:{entry.name}")
                    except InvalidDigest:
                        log.warning("store.ignored", path=entry.path)
                        continue
                    if entry.is_file(follow_symlinks=False):
                        yield digest, entry.stat(follow_symlinks=False).st_size

    def _sweep(self) -> None:
        """Remove what a crash left: temporary files, data or checkpoint alone, both of a finished blob."""
        names = {path.name for path in self._partials.iterdir()}
        for name in names:
            digest = _digest_of(name)
            if digest is None:
                needless = name.endswith(TEMPORARY_SUFFIX)
            else:
                pair = {_name(digest) + _DATA_SUFFIX, _name(digest) + _CHECKPOINT_SUFFIX}
                needless = digest in self._blobs or not pair <= names
            if needless:
                (self._partials / name).unlink(missing_ok=True)

    def _files(self, digest: Digest) -> PartialFiles:
        stem = self._partials / _name(digest)
        return PartialFiles(
            stem.with_name(stem.name + _DATA_SUFFIX), stem.with_name(stem.name + _CHECKPOINT_SUFFIX), self.path(digest)
        )

    def _resume(self, digest: Digest, size: int | None = None) -> Checkpoint | None:
        """What is on the disk of a partial blob; None, with its files removed, where that is not to be trusted."""
        files = self._files(digest)
        try:
            return _read_checkpoint(files, digest, size)
        except FileNotFoundError:
            return None
        except InvalidCheckpoint as error:
            log.warning("partial.discarded", digest=digest, reason=str(error))
            files.checkpoint.unlink()
            sync_folder(self._partials)
            files.data.unlink(missing_ok=True)
            return None


def _read_checkpoint(files: PartialFiles, digest: Digest, size: int | None) -> Checkpoint:
    """Raises `FileNotFoundError` where there is none, `InvalidCheckpoint` where it does not fit blob or data."""
    with files.checkpoint.open("rb") as file:
        start = Checkpoint.decode(file.read(MAX_CHECKPOINT_SIZE + 1))
    expected = start.layout.size if size is None else size
    if start.digest != digest or start.layout.size != expected:
        raise InvalidCheckpoint(f"it is of {start.digest} and {start.layout.size} bytes instead of {expected}")
    try:
        found = files.data.lstat()
    except FileNotFoundError:
        raise InvalidCheckpoint("its data is gone") from None
    if not stat.S_ISREG(found.st_mode) or found.st_size != expected:
        raise InvalidCheckpoint(f"its data has {found.st_size} bytes instead of {expected}")
    return start


def _open_data(path: Path, size: int, *, keep: bool) -> int:
    """A file of `size` bytes, without blocks where nothing is written: a disk is not filled ahead of the pieces."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if keep else os.O_TRUNC)
    fd = os.open(path, flags, FILE_MODE)
    try:
        os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_right(path: Path, digest: Digest) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, digest.algorithm).hexdigest() == digest.hex


def _name(digest: Digest) -> str:
    return f"{digest.algorithm}-{digest.hex}"


def _digest_of(name: str) -> Digest | None:
    """The digest that a file in `partial/` belongs to; None for others."""
    stem, _, suffix = name.partition(".")
    if f".{suffix}" not in (_DATA_SUFFIX, _CHECKPOINT_SUFFIX):
        return None
    try:
        return Digest(stem.replace("-", ":", 1))
    except InvalidDigest:
        return None
