"""The blobs on their way: which are open, being opened, being saved, and which wait for room."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from typing import Protocol

import structlog

from peer.account import Cause, waiting_for
from peer.asked import Asked
from peer.blob import BlobInProgress, store_failed
from peer.budget import Budget
from peer.disk import OutOfDescriptors, StoreError, StoreFull, StoreTooSmall
from peer.errors import DigestMismatch, DownloadFailed, Stopping
from peer.holdings import Holdings
from peer.partial import Partial
from peer.passage import Passage
from peer.readers import Readers
from peer.store import Store
from peer.tasks import Tasks
from peer.workers import Workers
from shoal.descriptor import BlobKey, Descriptor
from shoal.pieces import MIB, PieceLayout
from shoal.reference import Location
from shoal.traces import Traces
from shoal.units import format_size

log = structlog.get_logger()

_MAX_AHEAD = 10_000
"""Blobs that wait to be opened ahead; beyond, the oldest is left to be asked for."""
_FILE_SECONDS, _ROOM_SECONDS = 2.5, 4.0
"""For which a blob that a client asks for waits until one more file may be open, and for any room, in memory too."""
_MEMORY, _PIECES_EACH = 256 * MIB, 4
"""Bytes that all readers of blobs that pass by the store may need, and pieces of each, where many share the memory: two
that are there, one in hand and one that grows."""


class Owner(Protocol):
    """Who is told of blobs (`peer.downloads` implements it)."""

    def opened(
        self, blobs: Sequence[BlobInProgress], location: Location, asked: Asked | None, *, preheats: bool
    ) -> None:
        """These blobs are open, in the order in which they are wanted; `asked`: ranges of the first one alone.
        `preheats`: no client waits for them."""

    def not_kept(self, error: StoreError) -> None:
        """A blob passes by the store, for this reason."""

    def unreadable(self, blob: BlobInProgress, error: Exception) -> None:
        """Pieces that were written cannot be read; raises `DownloadFailed` where nothing can be done about it."""

    def crowded(self) -> None:
        """A blob waits for room."""

    def reading(self, key: BlobKey, reader: int, piece: int, waits_since: float | None) -> None:
        """A reader stands at a piece."""

    def left(self, key: BlobKey, reader: int) -> None:
        """A reader is gone."""

    def waited(self, seconds: float) -> None:
        """A reader got bytes after so long."""


class Shelf:
    """Opens and closes partial blobs within the budget; a digest and size is never open twice."""

    def __init__(
        self,
        store: Store,
        holdings: Holdings,
        workers: Workers,
        budget: Budget,
        tasks: Tasks,
        owner: Owner,
        traces: Traces,
    ) -> None:
        self._store = store
        self._holdings = holdings
        self._workers = workers
        self._most = budget.open_blobs
        self._tasks = tasks
        self._owner = owner
        self._traces = traces
        self._opening: dict[BlobKey, asyncio.Future[BlobInProgress | Exception]] = {}
        self._saving: dict[BlobKey, asyncio.Task[None]] = {}
        self._read_on: set[BlobInProgress] = set()
        """Stored blobs whose file is open for those who read it since before."""
        self._ahead: dict[BlobKey, tuple[Descriptor, Location]] = {}
        self._room = asyncio.Condition()
        self._stopping = False
        self.blobs: dict[BlobKey, BlobInProgress] = {}

    async def open(
        self, blob: Descriptor, location: Location, following: Sequence[Descriptor], asked: Asked | None
    ) -> BlobInProgress | None:
        """A blob on its way, opened where it is not, and behind it those `following`, as far as there is room.

        `asked`: ranges of the blob, where not all of it is wanted. None where it is in the store by now. Raises
        `DownloadFailed`.
        """
        key = blob.key
        if key in self._saving:
            await asyncio.wait([self._saving[key]])
        if key in self.blobs:
            return self.blobs[key]
        has_room = True
        if key not in self._opening:
            with waiting_for(Cause.ROOM):
                has_room = await self._wait_for_room(blob)
            if self._stopping:
                raise Stopping("the daemon is shutting down")
        if key not in self._opening:
            if not self._is_absent(blob):
                return self.blobs.get(key)
            if not has_room:
                crowded = OutOfDescriptors(f"{len(self.blobs)} blobs are on their way")
                return self._pass_by(blob, location, asked, crowded)
            for each in following:
                self._ahead.setdefault(each.key, (each, location))
            while len(self._ahead) > _MAX_AHEAD:
                del self._ahead[next(iter(self._ahead))]
            self._ahead.pop(key, None)  # it is opened now
            self._begin([blob, *self._next_ahead(location)], location, asked)
        # who asked may go away meanwhile; the files must not be left open
        opened = await asyncio.shield(self._opening[key])
        if isinstance(opened, StoreError) and not self._stopping:
            return self.blobs.get(key) or self._pass_by(blob, location, asked, opened)
        if isinstance(opened, Exception):
            raise store_failed(opened)
        return opened

    async def preheat(self, blob: Descriptor, location: Location) -> BlobInProgress | None:
        """A blob on its way, opened where it is not, for which no client waits; None where it is in the store by now.

        Raises `Stopping`, and `StoreError` where the store does not take it.
        """
        key = blob.key
        if key in self._saving:
            await asyncio.wait([self._saving[key]])
        while not self._has_room() and key not in self.blobs and key not in self._opening:
            async with self._room:
                await self._room.wait()
        if key in self.blobs:
            return self.blobs[key]
        if self._stopping:
            raise Stopping("the daemon is shutting down")
        if key not in self._opening:
            if not self._is_absent(blob):
                return None
            self._begin([blob], location, None, preheats=True)
        opened = await asyncio.shield(self._opening[key])
        if isinstance(opened, StoreError):
            raise opened.with_traceback(None)
        if isinstance(opened, Exception):
            raise store_failed(opened)
        return opened

    def end(self, blob: BlobInProgress, error: Exception | None) -> None:
        """Nothing more becomes of a blob. What there is of one that has failed is saved, unless it is wrong."""
        key = blob.descriptor.key
        del self.blobs[key]
        blob.finished.set()
        blob.settled.set()
        blob.trace_end(error)
        if error is not None:
            keep = not blob.passes and bool(blob.partial.have) and not isinstance(error, DigestMismatch)
            self._saving[key] = self._tasks.own(self._save(key, blob, keep=keep))
        else:
            self._read_on.add(blob)
            self._close_if_unused(blob)
        self._tasks.own(self._make_room())

    def stop(self) -> None:
        """Open nothing any more."""
        self._stopping = True
        self._ahead.clear()

    async def saved(self) -> None:
        """Wait until what there is of failed blobs is saved."""
        await asyncio.gather(*self._saving.values(), return_exceptions=True)

    def has_memory(self, size: int) -> bool:
        """Whether one more may read a blob of `size` bytes that passes by the store."""
        used = sum(_memory_of(each.layout.size, len(each.readers)) for each in self.blobs.values() if each.passes)
        return used + _memory_of(size, 1) <= _MEMORY

    def open_file(self, key: BlobKey) -> int:
        """A file descriptor of a blob's data, on its way or finished, for the caller to close.

        Raises `OSError`, `StoreError`.
        """
        blob = self.blobs.get(key)
        if blob is not None and isinstance(blob.partial, Partial):
            return os.dup(blob.partial.fd)
        stored = self._holdings.open_blob(key.digest)
        if stored is None:
            raise FileNotFoundError(key.digest)
        with stored:
            return os.dup(stored.fd)

    async def _wait_for_room(self, blob: Descriptor) -> bool:
        """Returns whether there is room for a file, else there is memory for a blob that passes by.

        Raises `DownloadFailed` where there is neither for longer than clients wait.
        """
        if self._has_room():
            return True
        self._owner.crowded()
        for seconds, room in (
            (_FILE_SECONDS, self._has_room),
            (_ROOM_SECONDS - _FILE_SECONDS, lambda: self._has_room() or self.has_memory(blob.size)),
        ):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds), self._room:
                    await self._room.wait_for(room)
                return self._has_room()
        raise DownloadFailed(f"no room for {blob.digest} beside {len(self.blobs)} blobs on their way")

    def _has_room(self) -> bool:
        kept = sum(not each.passes for each in self.blobs.values())
        return kept + len(self._opening) + len(self._read_on) < self._most

    # --- opening ------------------------------------------------------------------------------------------------------

    def _is_absent(self, blob: Descriptor) -> bool:
        key = blob.key
        underway = key in self.blobs or key in self._opening or key in self._saving
        return not underway and self._holdings.size(blob.digest) is None

    def _next_ahead(self, location: Location) -> list[Descriptor]:
        """Blobs of `location` at the head of the queue, while half of all may be opened ahead."""
        chosen: dict[BlobKey, Descriptor] = {}
        room = self._most // 2 - len(self.blobs) - len(self._opening)
        while self._ahead and len(chosen) < room:
            blob, at = next(iter(self._ahead.values()))
            if at != location:
                break
            del self._ahead[blob.key]
            if self._is_absent(blob):
                chosen[blob.key] = blob
        return list(chosen.values())

    def _begin(
        self, blobs: Sequence[Descriptor], location: Location, asked: Asked | None, *, preheats: bool = False
    ) -> None:
        """Open these blobs; what becomes of each is in `_opening` until then."""
        for blob in blobs:
            self._opening[blob.key] = asyncio.get_running_loop().create_future()
        self._tasks.own(self._open(blobs, location, asked, preheats=preheats))

    async def _open(
        self, blobs: Sequence[Descriptor], location: Location, asked: Asked | None, *, preheats: bool
    ) -> None:
        """Open these blobs, and tell in one go of those that could be opened."""
        partials: list[Partial | Exception]
        try:
            partials = await self._workers.run_long(lambda: self._partials(blobs))
        except Exception as error:  # a fault of ours: nobody is to wait for ever
            log.exception("shelf.open_failed")
            partials = [error] * len(blobs)
        opened = []
        for blob, partial in zip(blobs, partials, strict=True):
            result = partial if isinstance(partial, Exception) else self._put(blob, partial)
            if isinstance(result, BlobInProgress):
                opened.append(result)
            self._opening.pop(blob.key).set_result(result)
        if opened:
            is_first = opened[0].descriptor.key == blobs[0].key
            self._owner.opened(opened, location, asked if is_first else None, preheats=preheats)

    def _pass_by(self, blob: Descriptor, location: Location, asked: Asked | None, error: StoreError) -> BlobInProgress:
        """A blob that somebody asks for and that the store, which failed, or the budget has no room for."""
        self._owner.not_kept(error)
        self._ahead.pop(blob.key, None)
        layout, is_crowded = PieceLayout.of(blob.size), isinstance(error, OutOfDescriptors)
        progress = self._put(blob, Passage(blob.digest, layout, may_be_kept=is_crowded))
        self._owner.opened([progress], location, asked, preheats=False)
        return progress

    def _partials(self, blobs: Sequence[Descriptor]) -> list[Partial | Exception]:
        """The files of these blobs, as far as the store has room: in a thread. What there was of others goes."""
        partials = [self._partial(blob.key) for blob in blobs]
        for place, partial in reversed(list(enumerate(partials))):
            if isinstance(partial, Partial):
                try:
                    if self._store.make_room(0):
                        break
                    partials[place] = StoreFull(
                        f"no room for {format_size(partial.layout.size)}: all else is pinned, in use or newly come"
                    )
                    partial.abort()
                except StoreError as error:
                    partials[place] = error
                partial.close()
        return partials

    def _partial(self, key: BlobKey) -> Partial | Exception:
        try:
            if not self._store.fits(key.size):
                raise StoreTooSmall(f"{format_size(key.size)} are more than the store may hold (`cache.high`)")
            return self._store.partial(key)
        except (ValueError, StoreError) as error:
            log.debug("blob.not_opened", digest=key.digest, error=str(error))
            return error

    def _put(self, blob: Descriptor, partial: Partial | Passage) -> BlobInProgress:
        key = blob.key

        def told(reader: int, piece: int, waits_since: float | None) -> None:
            self._owner.reading(key, reader, piece, waits_since)

        def left(reader: int) -> None:
            self._owner.left(key, reader)
            if progress in self._read_on:
                self._close_if_unused(progress)
                self._tasks.own(self._make_room())

        def unreadable(error: Exception) -> None:
            self._owner.unreadable(progress, error)

        readers = Readers(partial, told, left, unreadable, self._owner.waited)
        span = self._traces.begin("blob.fetch", {"shoal.digest": blob.digest, "shoal.size": blob.size})
        joining = self._traces.begin("swarm.join", parent=span)
        progress = BlobInProgress(blob, partial, readers, self._workers, span, joining)
        self.blobs[key] = progress
        return progress

    # --- closing ------------------------------------------------------------------------------------------------------

    async def _save(self, key: BlobKey, blob: BlobInProgress, *, keep: bool) -> None:
        try:
            await blob.save(keep=keep)
        finally:
            del self._saving[key]

    async def _make_room(self) -> None:
        async with self._room:
            self._room.notify_all()
        if self._ahead and not self._stopping:
            _, location = next(iter(self._ahead.values()))
            ahead = self._next_ahead(location)
            if ahead:
                self._begin(ahead, location, None)

    def _close_if_unused(self, blob: BlobInProgress) -> None:
        """A stored blob's file stays open for those who read it since before."""
        if not len(blob.readers) and isinstance(blob.partial, Partial):
            self._read_on.discard(blob)
            blob.partial.close()


def _memory_of(size: int, readers: int) -> int:
    """Bytes that readers of a blob of `size` bytes may need in memory; one that is opened is about to have one."""
    return max(1, readers) * min(size, _PIECES_EACH * PieceLayout.of(size).piece_size)
