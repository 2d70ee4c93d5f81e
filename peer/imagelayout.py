"""The folder of a store: where its files are, which of them are blobs, and which process has it open.

It is an OCI image layout, so that standard tools read it, with folders of the store's own beside the blobs.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import structlog

from peer.disk import FILE_MODE, FOLDER_MODE, StoreBusy, sync_folder, write_durably
from shoal.digest import Digest, InvalidDigest

log = structlog.get_logger()

ALGORITHMS = ("sha256", "sha512")
"""Of which there is a folder each, below `blobs`."""

_STANDARD_FILES = {
    "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
    "index.json": b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}',
}


class ImageLayout:
    """The folder `root`, which one process has open at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.partial = root / "partial"
        self.quarantine = root / "quarantine"
        self._lock: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether this process holds the lock."""
        return self._lock is not None

    def open(self) -> None:
        """Take the lock and make what is missing; raises `StoreBusy` where another process has it, and `OSError`."""
        self.root.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        self._lock = self._take_lock()
        try:
            self._lay_out()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def path(self, digest: Digest) -> Path:
        """Where a finished blob is, or will be."""
        return self.root / "blobs" / digest.algorithm / digest.hex

    def blobs(self) -> Iterator[tuple[Digest, os.stat_result]]:
        """Every file that bears a digest's name, with its status; raises `OSError`."""
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

    def _take_lock(self) -> int:
        path = self.root / "lock"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            if error.errno not in {errno.EROFS, errno.ENOSPC}:
                raise
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # what is stored can be served all the same
            except FileNotFoundError:
                raise error from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if isinstance(error, BlockingIOError):
                raise StoreBusy(f"the store {self.root} is in use by another process") from None
            raise
        return fd

    def _lay_out(self) -> None:
        for folder in (self.partial, self.quarantine, *(self.root / "blobs" / name for name in ALGORITHMS)):
            folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        for name, content in _STANDARD_FILES.items():
            if not (self.root / name).exists():
                write_durably(self.root / name, content, by_way_of=self.partial)
        sync_folder(self.root / "blobs")
        sync_folder(self.root)
