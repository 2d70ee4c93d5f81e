"""The digest of a whole blob, taken once and in order while its pieces come in any order."""

from __future__ import annotations

import asyncio
from functools import partial as bind
from typing import TYPE_CHECKING

from peer.partial import Partial
from peer.passage import Passage
from peer.workers import Workers
from shoal.pieces import MIB, leading_run, set_of

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

    def __init__(self, partial: Partial | Passage, workers: Workers) -> None:
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
        if self.reached <= index < self.reached + _KEPT // self._layout.piece_size:
            self._kept[index] = content

    def go_on_with(self, passage: Passage) -> None:
        """The pieces that come from now on are not kept for long."""
        self._partial = passage
        self.wake()

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
        behind = self._run() * self._layout.piece_size
        return _LAG < behind <= max(_LOST, _LOST_PIECES * self._layout.piece_size)

    async def moved(self) -> None:
        """Wait until the hash has gone on, or was given up."""
        await self._moved.wait()

    def ready(self) -> int:
        """How many pieces the hash may go on for now; 0 where it is not worth a thread's while."""
        run = self._run()
        whole = self.reached + run == self._layout.count
        least = 1 if isinstance(self._partial, Passage) else _LEAST
        return run if whole or run * self._layout.piece_size >= least else 0

    def _run(self) -> int:
        """How many pieces there are from `reached` on. A passage may have let them go already."""
        have = self._partial.have
        if isinstance(self._partial, Passage):
            have |= set_of(self._kept)
        return leading_run(have, self.reached)

    async def advance(self) -> None:
        """Hash what is there, or as much as fits into one go of a thread; raises `StoreError`, `OSError`."""
        until = self.reached + min(self.ready(), max(1, _JOB // self._layout.piece_size))
        partial, parts = self._partial, [(index, self._in_memory(index)) for index in range(self.reached, until)]
        epoch = self._epoch
        # what fails in the middle is to be hashed again; and the blob may begin again meanwhile
        hasher = self._hasher.copy()
        try:
            await self._workers.run_long(bind(self._update, partial, hasher, parts))
            if epoch == self._epoch:
                self.reached, self._hasher = until, hasher
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

    def _in_memory(self, index: int) -> bytearray | None:
        kept = self._kept.pop(index, None)
        return self._partial.held(index) if kept is None and isinstance(self._partial, Passage) else kept

    def _update(self, partial: Partial | Passage, hasher: _Hash, parts: list[tuple[int, bytearray | None]]) -> None:
        buffer = memoryview(bytearray(min(_STEP, self._layout.piece_size)))
        for index, content in parts:
            if content is not None:
                hasher.update(content)
                continue
            span = self._layout.span(index)
            for offset in range(span.start, span.end, _STEP):
                part = buffer[: span.end - offset]
                partial.read_into(offset, part)
                hasher.update(part)
