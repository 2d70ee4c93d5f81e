"""A finished blob that is open for reading, wherever its file lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from peer.disk import SharedFile


class StoredBlob:
    """A file of `size` bytes that is the blob."""

    def __init__(self, fd: int, size: int, let_go: Callable[[], None] | None = None) -> None:
        """`let_go` is called once, when it is closed."""
        self.size = size
        self._file = SharedFile(fd)
        self._let_go = let_go

    @property
    def fd(self) -> int:
        """For `pread` and `sendfile`, never after `close`; raises `StoreError` once closed."""
        return self._file.fd

    def close(self) -> None:
        self._file.close()
        let_go, self._let_go = self._let_go, None
        if let_go is not None:
            let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
