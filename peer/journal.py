"""The digests of a partial blob's pieces as these are written, for what no checkpoint claims yet.

A process that is killed loses nothing that the kernel was given: a restart learns here which pieces to read back,
besides those of the checkpoint. Nothing is synced. After a power loss any of it may be missing, and any of the data, so
that a piece counts only when what is on the disk has the digest that stands here.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import blake3

from peer.disk import FILE_MODE, open_for_reading
from shoal.pieces import PIECE_DIGEST_SIZE, PieceSet, iterate

_CHECK_SIZE = 4
_SLOT = PIECE_DIGEST_SIZE + _CHECK_SIZE
_INDEX_SIZE = 4
_EMPTY = bytes(_SLOT)


class Journal:
    """A file with a slot for each piece. Opened for each use: a descriptor for each open blob would be too many.

    Nothing here fails: without the file the pieces are fetched again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, index: int, digest: bytes) -> None:
        """Piece `index` was written and has this digest."""
        self._put([(index, digest + _check(index, digest))], os.O_CREAT)

    def void(self, pieces: PieceSet) -> None:
        """These pieces are not to be gone on with."""
        self._put([(index, _EMPTY) for index in iterate(pieces)], 0)

    def read(self, count: int) -> dict[int, bytes]:
        """The digests of the pieces that were written, of a blob of `count` pieces."""
        content = b""
        with (
            contextlib.suppress(OSError),
            open(self._path, "rb", opener=lambda _, __: open_for_reading(self._path)) as file,
        ):
            content = file.read(count * _SLOT)
        slots = ((index, content[index * _SLOT : (index + 1) * _SLOT]) for index in range(len(content) // _SLOT))
        return {
            index: slot[:PIECE_DIGEST_SIZE]
            for index, slot in slots
            if slot[PIECE_DIGEST_SIZE:] == _check(index, slot[:PIECE_DIGEST_SIZE])
        }

    def _put(self, slots: list[tuple[int, bytes]], flags: int) -> None:
        with contextlib.suppress(OSError):
            fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | flags, FILE_MODE)
            try:
                for index, slot in slots:
                    os.pwrite(fd, slot, index * _SLOT)
            finally:
                os.close(fd)


def _check(index: int, digest: bytes) -> bytes:
    """What tells a slot that was written as a whole."""
    return blake3.blake3(index.to_bytes(_INDEX_SIZE, "big") + digest).digest(_CHECK_SIZE)
