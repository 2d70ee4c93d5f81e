"""The pieces of a blob that the store does not take: in memory, as long as somebody here needs them.

A passage stands in the place of a `Partial`, from the beginning on or from the moment when the disk was full or failed.
What was written until then is read from its file, which has no name any more, until all readers are behind it. Every
piece that was ever here keeps its digest: one that has to be fetched again has to be the same.
"""

from __future__ import annotations

import asyncio

from peer.disk import StoreError, Tampered
from peer.partial import Partial
from shoal.digest import Digest
from shoal.pieces import PieceLayout, PieceSet, set_of


class Passage:
    """Belongs to the event loop, `read_into` aside. What is let go when, the machine decides (`peer.passing`)."""

    def __init__(self, digest: Digest, layout: PieceLayout, *, may_be_kept: bool = False) -> None:
        """`may_be_kept`: the store would take the blob, and only its file could not be open."""
        self.may_be_kept = may_be_kept
        self.digest = digest
        self.layout = layout
        self.have: PieceSet = 0
        """The pieces that can be read."""
        self.table: dict[int, bytes] = {}
        """The digests of all pieces that were here."""
        self.filed: PieceSet = 0
        """The pieces that lie in the file of before."""
        self._content: dict[int, bytearray] = {}
        self._file: Partial | None = None
        self._is_named = False
        self._tampered: Tampered | None = None
        self._now: PieceSet = 0
        self._later: PieceSet = layout.all
        self._moved = asyncio.Event()
        self._unnamed = asyncio.Event()
        self._unnamed.set()

    @classmethod
    def behind(cls, partial: Partial, *, readable: bool) -> Passage:
        """Goes on where a partial blob cannot; `readable`: whether what is in its file can be trusted to be there.

        `remove_file` has to follow.
        """
        passage = cls(partial.digest, partial.layout)
        passage.table = dict(partial.table)
        passage._file, passage._is_named = partial, True
        passage._unnamed.clear()
        if readable:
            passage.have = passage.filed = partial.have
        return passage

    def held(self, index: int) -> bytearray | None:
        """The memory that holds a piece, where some does."""
        return self._content.get(index)

    def whole(self) -> bytes | None:
        """The whole blob, where all of it is in memory."""
        if len(self._content) < self.layout.count:
            return None
        return b"".join(self._content[index] for index in range(self.layout.count))

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on, which must lie in pieces of `have`; raises `StoreError`."""
        parts = []
        while length:
            index = self.layout.at(offset)
            span = self.layout.span(index)
            count = min(length, span.end - offset)
            content = self._content.get(index)
            if content is not None:
                parts.append(bytes(content[offset - span.start : offset - span.start + count]))
            else:
                parts.append(self._open_file().read(offset, count))
            offset, length = offset + count, length - count
        return b"".join(parts)

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` with bytes of the file of before, from `offset` on; raises `StoreError`. In any thread."""
        self._open_file().read_into(offset, target)

    async def room(self, index: int) -> None:
        """Wait as long as piece `index` is needed later and not now."""
        while self._later & ~self._now & 1 << index:
            await self._moved.wait()

    def take(self, index: int, content: bytearray, digest: bytes) -> None:
        """Piece `index` is here; `content` does not change any more."""
        self._content[index] = content
        self.table[index] = digest
        self.have |= 1 << index

    def hold(self, now: PieceSet, later: PieceSet) -> None:
        """Let go of what is not needed: in memory `now`, in the file `later`."""
        self._now, self._later = now, later
        for index in [index for index in self._content if not now >> index & 1]:
            del self._content[index]
        self._leave(self.filed & ~(now | later))
        self._moved.set()
        self._moved.clear()

    def discard(self) -> None:
        """Nothing that was here is to be trusted."""
        self._content.clear()
        self.table.clear()
        self._leave(self.filed)

    def check(self) -> None:
        """Raise `Tampered` where somebody else changed the file of before while it was read."""
        self._look()
        if self._tampered is not None:
            raise self._tampered

    def leave_file(self) -> None:
        """The file of before is not to be read any more."""
        self._leave(self.filed)

    def remove_file(self) -> None:
        """Take the file of before out of the store, as far as that can be done; in a thread. `unnamed` follows."""
        if self._file is not None:
            self._file.abort()

    def unnamed(self) -> None:
        """The file has been removed, or cannot be: its blocks are given back when nothing reads it."""
        self._is_named = False
        self._close_if_unused()
        self._unnamed.set()

    async def close(self) -> None:
        """Hold nothing any more, and wait until the store has its file back."""
        self.hold(0, 0)
        await self._unnamed.wait()

    def _leave(self, pieces: PieceSet) -> None:
        self.filed &= ~pieces
        self.have = self.filed | set_of(self._content)
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._file is not None and not self.filed and not self._is_named:
            self._look()
            self._file.close()
            self._file = None

    def _look(self) -> None:
        if self._file is not None and self._tampered is None:
            try:
                self._file.check()
            except Tampered as error:
                self._tampered = error
            except StoreError:
                pass  # what it gave was hashed

    def _open_file(self) -> Partial:
        file = self._file
        if file is None:
            raise StoreError(f"a piece of {self.digest} was let go")
        return file


def unsame(digest: Digest, index: int) -> StoreError:
    """What a piece fails with that comes otherwise the second time."""
    return StoreError(f"piece {index} of {digest} came otherwise the second time")
