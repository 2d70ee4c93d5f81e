"""What becomes of blobs on their way: their pieces are written, hashed as a whole and kept, or passed by the store."""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog

from peer.asked import Asked
from peer.blob import BlobInProgress, store_failed
from peer.budget import Budget
from peer.causes import Causes
from peer.commands import Land
from peer.condition import StoreCondition
from peer.disk import StoreError, StoreFull, Tampered
from peer.errors import DownloadFailed, Unwanted
from peer.fetcher import Fetcher
from peer.holdings import Holdings
from peer.metrics import PeerMetrics
from peer.partial import Partial
from peer.passage import Passage
from peer.presence import Presence
from peer.runner import Runner
from peer.shelf import Shelf
from peer.store import Store
from peer.tasks import Tasks
from peer.workers import Workers
from shoal.descriptor import BlobKey
from shoal.reference import Location
from shoal.traces import Traces

log = structlog.get_logger()

_LOOK_SECONDS = 0.01
"""Between two looks at what readers wait for: what moves quickly is not to cost more for being watched."""


class Downloads:
    """Does for each blob that is open on the shelf what has to be done between its pieces, the store and the machine.

    Belongs to the event loop; what it waits for may have ended the blob meanwhile.
    """

    def __init__(
        self,
        store: Store,
        holdings: Holdings,
        presence: Presence,
        condition: StoreCondition,
        fetcher: Fetcher,
        runner: Runner,
        workers: Workers,
        tasks: Tasks,
        budget: Budget,
        metrics: PeerMetrics,
        traces: Traces,
        causes: Causes,
    ) -> None:
        self.shelf = Shelf(store, holdings, workers, budget, tasks, self, traces)
        self._store = store
        self._holdings = holdings
        self._presence = presence
        self._condition = condition
        self._fetcher = fetcher
        self._runner = runner
        self._machine = runner.machine
        self._workers = workers
        self._tasks = tasks
        self._metrics = metrics
        self._causes = causes
        self._looked_at = 0.0
        self._hashing: set[BlobInProgress] = set()

    # --- what the machine decides about blobs -----------------------------------------------------------------------

    async def land(self, command: Land) -> None:
        """Check a piece and write it; then it counts."""
        key, piece, source = command.blob, command.piece, command.source
        blob = self.shelf.blobs.get(key)
        try:
            digest = None if blob is None else await self._write(blob, command)
        except (StoreError, OSError) as error:
            if self.shelf.blobs.get(key) is blob:  # else it failed before, and may be fetched again by now
                self._machine.unwritable(key, piece, source, store_failed(error))
            return
        finally:
            if isinstance(source, int):
                self._fetcher.landed(source)
            self._runner.carry_out_soon()
        if blob is None or self.shelf.blobs.get(key) is not blob:
            return
        if digest is None:
            self._metrics.pieces.labels("corrupt").inc()
            log.warning("piece.corrupt", peer=source, digest=key.digest, piece=piece)
            assert not isinstance(source, int)
            assert command.expected is not None
            self._machine.corrupt(key, piece, source, command.expected, time.monotonic())
        elif self._machine.landed(key, piece, digest, source, time.monotonic()):
            if not isinstance(source, int):
                self._metrics.pieces.labels("verified").inc()
            try:
                blob.land(piece, command.content, digest, from_origin=isinstance(source, int))
            except Exception as error:  # the machine counts the piece already: nobody is to wait for it for ever
                log.exception("piece.lost", digest=key.digest, piece=piece)
                self._machine.fail(key, store_failed(error))
                return
            self._hash_on(key)
            if isinstance(blob.partial, Partial) and blob.partial.due(time.monotonic()):
                self._tasks.own(self._checkpoint(blob.partial))

    def fail(self, key: BlobKey, error: Exception) -> None:
        """A blob fails, and all its readers with it."""
        blob = self.shelf.blobs[key]
        if isinstance(error, Unwanted):
            log.info("blob.given_up", digest=key.digest, reason=str(error))
        else:
            log.warning("blob.failed", digest=key.digest, error=str(error) or repr(error))
        blob.fail(error)
        self._metrics.failed(error)
        self.shelf.end(blob, error)

    def park(self, key: BlobKey) -> None:
        """A blob that nobody needs now is put away."""
        blob, away = self.shelf.blobs[key], DownloadFailed("the blob is put away")
        blob.fail(away)
        self.shelf.end(blob, away)
        if self._holdings.holds(key):
            self._presence.offer(key)

    def look(self, now: float) -> None:
        """Note what readers wait for at this moment."""
        if now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        for key, blob in self.shelf.blobs.items():
            for reader, piece in blob.readers.waiting:
                reader.account.turn(self._causes.of(key, piece, now), now)

    # --- what happens to blobs (peer.shelf.Owner) -------------------------------------------------------------------

    def opened(
        self, blobs: Sequence[BlobInProgress], location: Location, asked: Asked | None, *, preheats: bool
    ) -> None:
        """Blobs are open: get what is missing of them."""
        opened = [(blob.descriptor.key, blob.partial.have, blob.partial.table) for blob in blobs]
        passing = [blob.descriptor.key for blob in blobs if blob.passes]
        self._machine.open(opened, location, time.monotonic(), asked, passing, preheats=preheats)
        for key, have, _ in opened:
            if have:
                self._hash_on(key)
        self._runner.carry_out_soon()

    def not_kept(self, error: StoreError) -> None:
        """A blob passes by the store."""
        self._condition.failed(error)

    def unreadable(self, blob: BlobInProgress, error: Exception) -> None:
        """What was written of a blob cannot be read: it is fetched again. Raises `DownloadFailed` where it is over."""
        key = blob.descriptor.key
        if self.shelf.blobs.get(key) is not blob or isinstance(error, Tampered):
            raise store_failed(error)
        if isinstance(blob.partial, Passage):
            blob.partial.leave_file()
            self._machine.pass_by(key, 0, blob.verifier.reached, time.monotonic())
        else:
            self._pass_by(blob, error, readable=False)
        self._runner.carry_out_soon()

    def crowded(self) -> None:
        """A blob waits for room."""
        self._machine.make_room()
        self._runner.carry_out_soon()

    def reading(self, key: BlobKey, reader: int, piece: int, waits_since: float | None) -> None:
        """A reader stands at a piece."""
        self._machine.reading(key, reader, piece, waits_since)
        waiting = None if waits_since is None else self.shelf.blobs[key].readers.get(reader)
        if waiting is not None:
            now = time.monotonic()
            waiting.account.turn(self._causes.of(key, piece, now), now)
        if self._machine.has_commands:
            self._runner.carry_out_soon()

    def left(self, key: BlobKey, reader: int) -> None:
        """A reader is gone."""
        self._machine.left(key, reader, time.monotonic())

    def waited(self, seconds: float) -> None:
        """A reader got bytes after so long."""
        self._metrics.waited(seconds)

    # --- writing ----------------------------------------------------------------------------------------------------

    async def _write(self, blob: BlobInProgress, command: Land) -> bytes | None:
        """Write a piece; where the store does not take it, the blob passes by from then on. Raises `StoreError`."""
        may_make_room = True
        while True:
            passes = blob.passes
            try:
                return await blob.write(command.piece, command.content, command.expected)
            except (StoreError, OSError) as error:
                is_over = self.shelf.blobs.get(command.blob) is not blob
                if passes or is_over or isinstance(error, Tampered):
                    raise
                if may_make_room and isinstance(error, StoreFull) and await self._has_made_room():
                    may_make_room = False
                    continue
                self._pass_by(blob, error, readable=isinstance(error, StoreFull))

    async def _has_made_room(self) -> bool:
        try:
            return await self._workers.run_long(lambda: self._store.make_room(0))
        except StoreError:
            return False

    async def _checkpoint(self, partial: Partial) -> None:
        try:
            await self._workers.run_long(partial.checkpoint)
        except StoreError as error:
            log.warning("blob.not_saved", digest=partial.digest, error=str(error))

    def _pass_by(self, blob: BlobInProgress, error: Exception, *, readable: bool) -> None:
        """The store takes no more of a blob; `readable`: what it took can be read."""
        if blob.passes:
            return
        self._condition.failed(error)
        log.info("blob.passes", digest=blob.descriptor.digest, error=str(error))
        passage = blob.pass_by(readable=readable)
        self._tasks.own(self._remove(passage))
        self._machine.pass_by(blob.descriptor.key, passage.filed, blob.verifier.reached, time.monotonic())
        self._runner.carry_out_soon()

    async def _remove(self, passage: Passage) -> None:
        try:
            await self._workers.run_long(passage.remove_file)
        except StoreError as error:
            log.warning("blob.not_removed", digest=passage.digest, error=str(error))
        finally:
            passage.unnamed()

    # --- the digest of the whole ------------------------------------------------------------------------------------

    def _hash_on(self, key: BlobKey) -> None:
        blob = self.shelf.blobs[key]
        if blob not in self._hashing and blob.verifier.ready():
            self._hashing.add(blob)
            self._tasks.own(self._hash(key, blob))

    async def _hash(self, key: BlobKey, blob: BlobInProgress) -> None:
        """Hash the blob as far as it is there; when that is all of it, it is right or it is not."""
        try:
            is_done = await blob.hash_on()
        except (StoreError, OSError) as error:
            if self.shelf.blobs.get(key) is blob:
                try:
                    self.unreadable(blob, error)
                except DownloadFailed as failure:
                    self._machine.fail(key, failure)
            return
        finally:
            self._hashing.discard(blob)
            self._runner.carry_out_soon()
        if self.shelf.blobs.get(key) is blob:
            self._machine.hashed(key, blob.verifier.reached)
        if not is_done or self.shelf.blobs.get(key) is not blob:
            return
        if not blob.verifier.matches():
            log.error("blob.mismatch", digest=key.digest, size=key.size)
            self._machine.mismatched(key, time.monotonic())
            return
        try:
            await blob.finish()
        except (StoreError, OSError) as error:
            self._not_finished(key, blob, error)
        else:
            if self.shelf.blobs.get(key) is not blob:
                return
            self._metrics.ended.labels("complete").inc()
            if isinstance(blob.partial, Passage):
                self._machine.passed(key)
                await self._keep(blob.partial)
            else:
                self._condition.works()
                self._machine.verified(key, time.monotonic())
                self.shelf.end(blob, None)
        finally:
            self._runner.carry_out_soon()

    async def _keep(self, passage: Passage) -> None:
        """A small blob that passes by, because too many files were open, is kept all the same."""
        content = passage.whole() if passage.may_be_kept else None
        if content is None:
            return
        try:
            if await self._workers.run_long(lambda: self._store.make_room(len(content))):
                await self._workers.run_long(lambda: self._store.put(passage.digest, content))
        except StoreError as error:
            self._condition.failed(error)

    def _not_finished(self, key: BlobKey, blob: BlobInProgress, error: Exception) -> None:
        """All of a blob is right, and it could not be put into its place: its readers go on all the same."""
        log.error("blob.not_stored", digest=key.digest, error=str(error))
        if self.shelf.blobs.get(key) is not blob:
            return
        if isinstance(error, Tampered) or not blob.readers.is_verified:
            self._machine.fail(key, store_failed(error))
            return
        self._pass_by(blob, error, readable=False)
        self._machine.passed(key)
