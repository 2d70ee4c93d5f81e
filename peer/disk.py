"""Files that survive a crash: whole writes, syncs in the right order, what tells a file, and the store's errors."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

FILE_MODE = 0o644
FOLDER_MODE = 0o755
TEMPORARY_SUFFIX = ".tmp"

NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}
"""Errors of opening: nothing is there, or a symbolic link, or a socket."""

_temporary_number = itertools.count()


class StoreError(Exception):
    """The store cannot do what was asked, or its disk failed."""


class StoreBusy(StoreError):
    """Another process has the store open."""


class StoreFull(StoreError):
    """No space, or no quota, is left on the store's disk."""


class StoreTooSmall(StoreError):
    """A blob is larger than the store may ever hold."""


class OutOfDescriptors(StoreError):
    """No more files may be open, of which the store is not to blame."""


class Tampered(StoreError):
    """Somebody else wrote to a partial blob's file, cut it or replaced it."""


class Stamp(NamedTuple):
    """What tells whether a file is still the one that was looked at: its length in bytes, last change and inode."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)

    def fits(self, status: os.stat_result) -> bool:
        """Whether `status` is that of the same regular file, unchanged."""
        found = (status.st_size, status.st_mtime_ns, status.st_ino)
        return found == self and stat.S_ISREG(status.st_mode)


_KINDS: Mapping[int, type[StoreError]] = {
    errno.ENOSPC: StoreFull,
    errno.EDQUOT: StoreFull,
    errno.EMFILE: OutOfDescriptors,
    errno.ENFILE: OutOfDescriptors,
}


@contextmanager
def failing_to(action: str) -> Iterator[None]:
    """Turns an `OSError` into a `StoreError` that says what could not be done, `StoreFull` where space ran out."""
    try:
        yield
    except OSError as error:
        kind = _KINDS.get(error.errno or 0, StoreError)
        raise kind(f"cannot {action}: {error.strerror or error}") from error


class SharedFile:
    """A file descriptor that several threads use, each inside `with file as fd`.

    `close` takes effect when the last of them has left: none ever meets a number that another file got meanwhile.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._users = 0
        self._closed = False
        self._guard = threading.Lock()

    @property
    def fd(self) -> int:
        """The bare number, which the caller must not use after `close`; raises `StoreError` once it is closed."""
        if self._closed:
            raise StoreError("the file is closed")
        return self._fd

    def close(self) -> None:
        with self._guard:
            if self._closed:
                return
            self._closed = True
            if self._users == 0:
                os.close(self._fd)

    def __enter__(self) -> int:
        with self._guard:
            fd = self.fd
            self._users += 1
            return fd

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._users -= 1
            if self._closed and self._users == 0:
                os.close(self._fd)


def open_for_reading(path: Path) -> int:
    """A descriptor that neither follows a symbolic link nor waits, whatever `path` is by now; raises `OSError`."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


def open_sparse(path: Path, size: int, *, keep: bool) -> int:
    """A file of `size` bytes, without blocks where nothing is written: a disk is not filled ahead of the pieces.

    A file that is kept and has that size is left as it is, its time of change included. Raises `OSError`.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if keep else os.O_TRUNC)
    fd = os.open(path, flags, FILE_MODE)
    try:
        if os.fstat(fd).st_size != size:
            os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def write_all(fd: int, content: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of `content` at `offset`, in as many system calls as it takes; raises `OSError`."""
    rest = memoryview(content).cast("B")
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written


def read_all(fd: int, offset: int, length: int) -> bytes:
    """Exactly `length` bytes from `offset` on; raises `OSError`, also where the file ends before."""
    content = os.pread(fd, length, offset)
    if len(content) == length:
        return content
    whole = bytearray(length)
    read_all_into(fd, memoryview(whole), offset)
    return bytes(whole)


def read_all_into(fd: int, target: memoryview, offset: int) -> None:
    """Fill `target` with the bytes from `offset` on; raises `OSError`, also where the file ends before."""
    while target:
        count = os.preadv(fd, [target], offset)
        if not count:
            raise OSError(errno.EIO, f"the file ends at {offset}, {len(target)} bytes early")
        target, offset = target[count:], offset + count


def sync_data(fd: int) -> None:
    """Return when the file's bytes, and its length, are on the disk; raises `OSError`."""
    os.fdatasync(fd)


def sync_folder(folder: Path) -> None:
    """Return when the folder's entries (created, renamed, removed) are on the disk; raises `OSError`."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(target: Path, content: bytes, by_way_of: Path) -> Stamp:
    """Put a file in place at once and for good: after a crash it is whole, or it is what was there before.

    The temporary file lies in the folder `by_way_of`, on the same file system. Returns what tells the file.
    Raises `OSError`.
    """
    temporary = by_way_of / f"{target.name}.{next(_temporary_number)}{TEMPORARY_SUFFIX}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
        try:
            write_all(fd, content, 0)
            sync_data(fd)
            stamp = Stamp.of(os.fstat(fd))
        finally:
            os.close(fd)
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)
    return stamp
