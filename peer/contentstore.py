"""containerd's content store on this node: a second place of finished blobs, where nothing is ever written.

    blobs/ALGORITHM/HEX     what containerd has committed; what is on its way to it lies elsewhere

A file counts when it was hashed here, and as long as it is the one that was hashed, by length, mtime and inode. What
was hashed is remembered in an index of this node's own, so that a start need not hash it again.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from peer.disk import NO_FILE, SharedFile, Stamp, failing_to, open_for_reading
from peer.imagelayout import ALGORITHMS
from peer.index import Entry, Index
from peer.storedblob import StoredBlob
from shoal.descriptor import BlobKey
from shoal.digest import Digest, InvalidDigest
from shoal.pieces import MAX_BLOB_SIZE

log = structlog.get_logger()

FOLDER = "io.containerd.content.v1.content"
"""Where a content store lies below containerd's root."""
INDEX = "containerd.sqlite"
"""In this node's own store: what was checked."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a look at the folders has shown."""

    new: list[Digest]
    """Files that were not hashed yet, or not as they are now."""
    gone: list[BlobKey]
    """Blobs that were offered and are there no more."""


class Unchecked:
    """A file that is open to be hashed, a step at a time."""

    def __init__(self, digest: Digest, path: Path) -> None:
        """Raises `OSError`."""
        self.digest = digest
        self._file = SharedFile(open_for_reading(path))
        with self._file as fd:
            self.stamp = Stamp.of(os.fstat(fd))
        self._hasher = digest.hasher()
        self._offset = 0

    def step(self, size: int) -> int:
        """Hash up to `size` bytes more; returns how many there were, 0 at the end. In a thread.

        Raises `OSError`, and `StoreError` once it is closed.
        """
        with self._file as fd:
            content = os.pread(fd, size, self._offset)
        self._hasher.update(content)
        self._offset += len(content)
        return len(content)

    @property
    def is_right(self) -> bool:
        """Whether what was hashed is the blob, and the file is still what it was at the start."""
        with self._file as fd:
            return self.digest.matches(self._hasher) and self.stamp.fits(os.fstat(fd))

    def close(self) -> None:
        """A step that runs goes on to its end."""
        self._file.close()


class ContentStore:
    """The blobs below `root`, as far as they were checked. Safe to use from several threads."""

    def __init__(self, root: Path, index: Path) -> None:
        """`index`: the file in which is remembered what was checked."""
        self.root = root
        self._index = Index(index)
        self._checked: dict[Digest, Stamp] = {}
        self._wrong: dict[Digest, Stamp] = {}
        """Files whose content is not what their name says: not to be hashed again as long as they are the same."""
        self._faults: dict[Path, str] = {}
        """Folders that could not be read at the last look, and why: told once, not at each look."""

    def open(self) -> None:
        """Read what was checked before; raises `StoreError`. `look` tells what of it is still so."""
        self._checked = {Digest(digest): entry.stamp for digest, entry in self._index.open().blobs.items()}

    def close(self) -> None:
        self._index.close()
        self._checked, self._wrong = {}, {}

    def size(self, digest: Digest) -> int | None:
        """Bytes of a checked blob, None where it is not here."""
        stamp = self._checked.get(digest)
        return None if stamp is None else stamp.size

    def digests(self) -> Iterator[tuple[Digest, int]]:
        """All checked blobs of this moment with their sizes in bytes."""
        return iter([(digest, stamp.size) for digest, stamp in list(self._checked.items())])

    def open_blob(self, digest: Digest) -> StoredBlob | None:
        """A checked blob to read from; None where its file is gone or another one by now, and it counts no more.

        Raises `StoreError` where it cannot be opened.
        """
        known = self._checked.get(digest)
        if known is None:
            return None
        with failing_to(f"open {digest} of {self.root}"):
            try:
                fd = open_for_reading(self._path(digest))
            except OSError as error:
                if error.errno not in NO_FILE:
                    raise
            else:
                if known.fits(os.fstat(fd)):
                    return StoredBlob(fd, known.size)
                os.close(fd)
        self._drop([digest])
        return None

    def condemn(self, digest: Digest) -> None:
        """A checked blob cannot be read: it counts no more as long as its file is the same."""
        known = self._checked.get(digest)
        if known is not None:
            self._wrong[digest] = known
            self._drop([digest])

    def look(self) -> Changes:
        """Compare the folders with what was checked, by the files' status alone. In a thread.

        A folder that cannot be read holds nothing.
        """
        found = dict(self._scan())
        gone = [digest for digest, stamp in list(self._checked.items()) if found.get(digest) != stamp]
        lost = [BlobKey(digest, self._checked[digest].size) for digest in gone]
        self._drop(gone)
        self._wrong = {digest: stamp for digest, stamp in self._wrong.items() if found.get(digest) == stamp}
        known = self._checked.keys() | self._wrong.keys()
        return Changes([digest for digest in found if digest not in known], lost)

    def unchecked(self, digest: Digest) -> Unchecked:
        """A file to be hashed; `checked` takes it back. Raises `OSError`."""
        return Unchecked(digest, self._path(digest))

    def checked(self, file: Unchecked) -> BlobKey | None:
        """A file was hashed to its end: the blob that it is from now on, or None where it is wrong."""
        if file.is_right:
            now = time.time()
            self._index.add(file.digest, Entry(file.stamp, now, now), None)
            self._checked[file.digest] = file.stamp
            return BlobKey(file.digest, file.stamp.size)
        self._wrong[file.digest] = file.stamp
        log.error("content.wrong", digest=file.digest, root=str(self.root))
        return None

    def _path(self, digest: Digest) -> Path:
        return self.root / "blobs" / digest.algorithm / digest.hex

    def _drop(self, digests: list[Digest]) -> None:
        for digest in digests:
            self._checked.pop(digest, None)
        self._index.remove(digests)

    def _scan(self) -> Iterator[tuple[Digest, Stamp]]:
        faults = {}
        for algorithm in ALGORITHMS:
            folder = self.root / "blobs" / algorithm
            try:
                with os.scandir(folder) as entries:
                    yield from _files(entries, algorithm)
            except FileNotFoundError:  # there is a folder for an algorithm that some blob is named by
                if not self.root.exists():
                    faults[self.root] = "there is no such folder"
            except OSError as error:
                faults[folder] = str(error)
        for folder, fault in sorted(faults.items() - self._faults.items()):
            log.warning("content.unreadable", folder=str(folder), error=fault)
        self._faults = faults


def _files(entries: Iterable[os.DirEntry[str]], algorithm: str) -> Iterator[tuple[Digest, Stamp]]:
    """The regular files that bear a digest's name, and what tells each."""
    for entry in entries:
        with contextlib.suppress(InvalidDigest, FileNotFoundError):  # what is removed meanwhile is not there
            digest = Digest(f"{algorithm}:{entry.name}")
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BLOB_SIZE:
                yield digest, Stamp.of(status)
