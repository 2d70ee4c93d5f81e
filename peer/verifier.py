"""The digest of a whole blob, taken once and in order while its pieces come in any order."""

from __future__ import annotations

import asyncio
from functools import partial as bind
from typing import TYPE_CHECKING

from peer.partial import Partial
from peer.workers import Workers
from shoal.pieces import MIB, PieceSet, leading_run

if TYPE_CHECKING:
    from hashlib import _Hash

_STEP = 1 * MIB
_JOB = 4 * MIB
_LEAST = 2 * MIB
"""Bytes for which a thread is woken, the end of the blob aside: 1 ms of work."""
_KEPT = 16 * MIB
"""Bytes in front of the hash of which the pieces stay in memory for it: reading them back costs a third of hashing."""
_LAG = 4 * MIB
"""Bytes that may wait for the hash before whoever brings more is held up: they would only be read back later."""
_LOST, _LOST_PIECES = 64 * MIB, 64
"""Bytes, or pieces where that is more, from which on it cannot catch up soon: more than peers are asked for at once."""


class Verifier:
    """Hashes one blob as its pieces come; `reached` pieces are hashed, from the first on. Belongs to the event loop."""

    def __init__(self, partial: Partial, workers: Workers) -> None:
        self.reached = 0
        self._partial = partial
        self._layout = partial.layout
        self._workers = workers
        self._hasher = partial.digest.hasher()
        self._kept: dict[int, bytearray] = {}
        self._moved = asyncio.Event()
        self._epoch = 0

    def keep(self, index: int, content: bytearray) -> None:
        """Piece `index` was written and is this; `content` does not change any more."""
        if index < self.reached + _KEPT // self._layout.piece_size:
            self._kept[index] = content

    def begin_again(self) -> None:
        """Pieces that were hashed are void."""
        self._epoch += 1
        self.reached = 0
        self._hasher = self._partial.digest.hasher()
        self._kept.clear()
        self.wake()

    @property
    def lags(self) -> bool:
        """Whether pieces come faster than they are hashed, by so little that waiting for the hash helps.

        After a restart it has all to read that was there before, and pieces must not wait for that.
        """
        behind = leading_run(self._partial.have, self.reached) * self._layout.piece_size
        return _LAG < behind <= max(_LOST, _LOST_PIECES * self._layout.piece_size)

    async def moved(self) -> None:
        """Wait until the hash has gone on, or was given up."""
        await self._moved.wait()

    def ready(self) -> int:
        """How many pieces the hash may go on for now; 0 where it is not worth a thread's while."""
        return self._ready(self._partial.have)

    def _ready(self, have: PieceSet) -> int:
        run = leading_run(have, self.reached)
        whole = self.reached + run == self._layout.count
        return run if whole or run * self._layout.piece_size >= _LEAST else 0

    async def advance(self) -> None:
        """Hash what is there, or as much as fits into one go of a thread; raises `StoreError`, `OSError`."""
        until = self.reached + min(self.ready(), max(1, _JOB // self._layout.piece_size))
        parts = [(index, self._kept.pop(index, None)) for index in range(self.reached, until)]
        epoch = self._epoch
        # another hash would go on beside this one where the blob begins again meanwhile
        hasher = self._hasher
        try:
            await self._workers.run_long(bind(self._update, hasher, parts))
            if epoch == self._epoch:
                self.reached = until
        finally:
            self.wake()

    def wake(self) -> None:
        """Let go of all who wait in `moved`."""
        self._moved.set()
        self._moved.clear()

    @property
    def is_done(self) -> bool:
        """Whether all pieces are hashed."""
        return self.reached == self._layout.count

    def matches(self) -> bool:
        """Whether the blob is what its digest says, once all pieces are hashed."""
        return self._partial.digest.matches(self._hasher)

    def _update(self, hasher: _Hash, parts: list[tuple[int, bytearray | None]]) -> None:
        buffer = memoryview(bytearray(min(_STEP, self._layout.piece_size)))
        for index, content in parts:
            if content is not None:
                hasher.update(content)
                continue
            span = self._layout.span(index)
            for offset in range(span.start, span.end, _STEP):
                part = buffer[: span.end - offset]
                self._partial.read_into(offset, part)
                hasher.update(part)
