"""A file that one owner writes to, and that notices when somebody else does."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from peer.disk import (
    SharedFile,
    Stamp,
    StoreError,
    Tampered,
    failing_to,
    read_all,
    read_all_into,
    sync_data,
    write_all,
)


class WatchedFile(SharedFile):
    """The data file of a partial blob; `name` is for messages. Once it was tampered with, everything raises `Tampered`.

    Whoever writes to a file changes its mtime, and after each own write the length and the mtime are known: that is
    enough against tools that copy, restore or clean up. It does not show a change at the same time as an own write (or
    within the same tick of the kernel's clock as the last one, up to 10 ms before Linux 6.13), nor an mtime that was
    set back, nor a disk that returns other bytes than it was given. Of these, `Partial.finish` sees what concerns the
    pieces that it reads back, and `Store.verify` the rest.
    """

    def __init__(self, fd: int, name: str) -> None:
        """Raises `OSError` where the file cannot be looked at."""
        super().__init__(fd)
        self._name = name
        self._left = Stamp.of(os.fstat(fd))
        self._tampered = False
        self._lost = False
        self._writer = threading.Lock()  # the kernel lets one thread write to a file at a time, and the others spin

    @property
    def left(self) -> Stamp:
        """How the last own write left the file."""
        return self._left

    def write(self, offset: int, content: memoryview) -> None:
        """Write all of `content` at `offset`; raises `StoreError`, `StoreFull`."""
        with self._writer, self as fd, failing_to(f"write {len(content)} bytes at {offset} of {self._name}"):
            self._compare(os.fstat(fd))
            try:
                write_all(fd, content, offset)
            finally:
                self._left = Stamp.of(os.fstat(fd))

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on; raises `StoreError`."""
        with self._reading(offset, length) as fd:
            return read_all(fd, offset, length)

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` with the bytes from `offset` on; raises `StoreError`."""
        with self._reading(offset, len(target)) as fd:
            read_all_into(fd, target, offset)

    def sync(self) -> None:
        """A sync that failed is never tried again: the kernel forgets the pages, and the next would wrongly succeed."""
        if self._lost:
            raise StoreError(f"an earlier sync of {self._name} failed")
        with self as fd, failing_to(f"sync {self._name}"):
            self._check(fd)
            self._lost = True
            sync_data(fd)
            self._lost = False

    def check(self) -> None:
        """Raise `Tampered` where somebody else changed the file. Never waits: a write that runs checks by itself."""
        with self as fd, failing_to(f"look at {self._name}"):
            self._check(fd)

    def check_path(self, path: Path) -> None:
        """Raise `Tampered` where `path` is not this file, unchanged; nobody may be writing."""
        with failing_to(f"look at {path}"):
            try:
                found = path.lstat()
            except FileNotFoundError:
                self.condemn()
            self._compare(found)

    def condemn(self) -> NoReturn:
        """Raise `Tampered`, now and whenever the file is used again."""
        self._tampered = True
        raise Tampered(f"somebody else changed the file of {self._name}")

    def refuse_tampered(self) -> None:
        """Raise `Tampered` where that was found before."""
        if self._tampered:
            self.condemn()

    @contextmanager
    def _reading(self, offset: int, length: int) -> Iterator[int]:
        """What was read is not believed where the file turns out afterwards to have been changed."""
        with self as fd, failing_to(f"read {length} bytes at {offset} of {self._name}"):
            try:
                yield fd
            finally:
                self._check(fd)

    def _check(self, fd: int) -> None:
        self.refuse_tampered()
        if self._writer.acquire(blocking=False):
            try:
                self._compare(os.fstat(fd))
            finally:
                self._writer.release()

    def _compare(self, found: os.stat_result) -> None:
        self.refuse_tampered()
        if Stamp.of(found) != self._left:
            self.condemn()
