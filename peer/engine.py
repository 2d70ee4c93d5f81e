"""One peer at work: carries out what its machine decides, and gives blobs from the store, the swarm or the origin."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, Self, TypeVar

import structlog
from prometheus_client import CollectorRegistry

from peer import wire
from peer.asked import Asked, Behind
from peer.blob import BlobInProgress, store_failed
from peer.budget import Budget
from peer.commands import (
    Answer,
    Command,
    Dial,
    Discard,
    Fail,
    FailReaders,
    Fetch,
    HangUp,
    Hold,
    Land,
    Park,
    Send,
    Serve,
    StopFetch,
    Tell,
    TellTable,
)
from peer.condition import StoreCondition
from peer.contentstore import ContentStore
from peer.disk import OutOfDescriptors, StoreError, StoreFull, Tampered
from peer.errors import DownloadFailed, Stopping
from peer.fetcher import Fetcher
from peer.holdings import Holdings
from peer.inventory import Lost
from peer.machine import Machine, MachineSettings
from peer.metrics import PeerMetrics
from peer.neighbours import Neighbours
from peer.offering import Offering
from peer.openblob import OpenBlob
from peer.origin import Origin
from peer.partial import Partial
from peer.passage import Passage
from peer.piecemap import StreamId
from peer.plans import ImagePlans
from peer.serving import Serving
from peer.settings import PeerSettings
from peer.shelf import Shelf
from peer.store import Store
from peer.storedblob import StoredBlob
from peer.upkeep import Upkeep
from peer.uploads import Upload
from peer.workers import Workers
from shoal.descriptor import BlobKey, Descriptor
from shoal.digest import Digest
from shoal.membership import Membership
from shoal.messages import InvalidMessage
from shoal.pieces import PieceLayout, piece_digest, to_bitfield
from shoal.reference import Location
from supernode import protocol
from supernode.client import ControlClient
from supernode.protocol import PeerId

log = structlog.get_logger()

_TICK_SECONDS = 0.25
T = TypeVar("T")


class Engine:
    """One peer, as an async context manager.

    `control` is None where there is no supernode, `content` where containerd's content store is not offered.
    """

    def __init__(
        self,
        settings: PeerSettings,
        store: Store,
        origin: Origin,
        control: ControlClient | None,
        registry: CollectorRegistry,
        budget: Budget,
        content: ContentStore | None = None,
        membership: Membership | None = None,
    ) -> None:
        """Without a membership everybody is a member."""
        self.id = PeerId(secrets.token_hex(16))
        self.store = store
        self.library = Holdings(store, content)
        self.metrics = PeerMetrics(registry)
        self.condition = StoreCondition(self.metrics)
        self.damaged: Callable[[Lost], None] = _nobody
        """Told of each blob whose file turned out to be wrong or gone."""
        self._settings = settings
        self._control = control
        self._workers = Workers()
        self._plans = ImagePlans()
        self._shelf = Shelf(store, self.library, self._workers, budget, self)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._hashing: set[BlobInProgress] = set()
        self._was_known = False
        self._is_due = False
        self._wake: asyncio.TimerHandle | None = None
        self._stack = contextlib.AsyncExitStack()
        decisions = MachineSettings(settings.upload_slots, control is not None, settings.origin_wait)
        self.machine = Machine(decisions, self.library, random.Random(), time.monotonic())
        self.neighbours = Neighbours(
            self.id,
            settings.host,
            settings.port,
            self,
            Membership() if membership is None else membership,
            connections=budget.peer_connections,
            strangers=budget.strangers,
        )
        self._serving = Serving(self.neighbours, self.metrics, settings.upload_slots, self._open_file, self.uploaded)
        self._fetcher = Fetcher(origin, self)
        self._offering = Offering(content, self._workers, self.offer, self._withdraw) if content is not None else None
        self.metrics.downloads.set_function(lambda: len(self._shelf.blobs))
        self.metrics.blobs.set_function(lambda: sum(1 for _ in self.library.digests()))
        self.metrics.neighbours.set_function(lambda: len(self.neighbours.all))
        self.metrics.streams.set_function(lambda: self.machine.exchange.streams)
        self.metrics.connected.set_function(lambda: float(self.machine.connected))

    @property
    def port(self) -> int:
        """The port on which other peers reach this one."""
        return self.neighbours.port

    @property
    def blobs(self) -> Mapping[BlobKey, BlobInProgress]:
        """The blobs on their way."""
        return self._shelf.blobs

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._stack.callback(
            self.store.tell, self.store.tell(lambda lost: loop.call_soon_threadsafe(self._lost_blobs, lost))
        )
        self._stack.callback(self._workers.close)
        self._stack.push_async_callback(self._settle)
        await self._stack.enter_async_context(self.neighbours)
        self._stack.push_async_callback(self._fetcher.close)
        self._stack.push_async_callback(_ended, self.own(self._tick()))
        if self._offering is not None:
            self._stack.push_async_callback(_ended, self.own(self._offering.run()))
        upkeep = Upkeep(self.store, self._workers, self._settings.cache.scrub, self)
        self._stack.push_async_callback(_ended, self.own(upkeep.run()))
        if self._control is not None:
            self._stack.push_async_callback(_ended, self.own(self._control.run(self)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(0.0)
        await self._stack.aclose()

    async def stop(self, grace: float) -> None:
        """No new blobs; those that somebody waits for may go on for `grace` seconds; then all state is saved."""
        self._shelf.stop()
        read = [blob for blob in self._shelf.blobs.values() if len(blob.readers)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await asyncio.gather(*(blob.finished.wait() for blob in read))
        verified = [blob for blob in self._shelf.blobs.values() if blob.readers.is_verified and not blob.passes]
        for key in [key for key, blob in self._shelf.blobs.items() if blob not in verified]:
            self.machine.fail(key, Stopping("the daemon is shutting down"))
        self._carry_out()
        await self._shelf.saved()
        await asyncio.gather(*(blob.finished.wait() for blob in verified))

    async def _settle(self) -> None:
        """Wait for what is being written and saved."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- what the proxy asks for (design, section 3) --------------------------------------------------------------

    def stored(self, digest: Digest) -> int | None:
        """Bytes of a blob that this node holds."""
        return self.library.size(digest)

    @property
    def store_fault(self) -> str:
        """Why the store takes nothing; empty as long as it works."""
        return self.condition.fault

    def expect(self, blobs: Sequence[Descriptor], location: Location) -> None:
        """A manifest was read at `location` that names these blobs, in this order."""
        self._plans.expect(blobs, location)

    async def remove(self, digest: Digest) -> int:
        """Take a blob out of the store; returns its size in bytes, 0 where it was not there. Raises `StoreError`."""
        return await self._workers.run_long(lambda: self.store.remove(digest))

    def in_store(self) -> list[tuple[Digest, int]]:
        """All blobs of the store with their sizes in bytes."""
        return list(self.store.digests())

    async def verify(self) -> AsyncIterator[tuple[Digest, bool]]:
        """Hash all blobs of the store; those that are wrong go to quarantine. Raises `StoreError`."""
        verifying = self.store.verify()
        while (found := await self._workers.run_long(lambda: next(verifying, None))) is not None:
            yield found

    async def pinned(self) -> set[Digest]:
        """All blobs that pins keep."""
        return await self._workers.run_long(self.store.pinned)

    async def is_needed(self, digest: Digest) -> bool:
        """Whether a manifest or a pin needs a blob."""
        return await self._workers.run_long(lambda: self.store.is_needed(digest))

    async def restore(self, blob: Descriptor, location: Location) -> bool:
        """Get a blob that is to be in the store; whether it is there at the end.

        Raises `OriginError` or `DownloadFailed` where nobody can give it.
        """
        async with await self.open(blob, location):
            progress = self._shelf.blobs.get(blob.key)
            if progress is not None:
                await progress.settled.wait()
                if progress.readers.error is not None:
                    raise progress.readers.error
        return self.store.size(blob.digest) is not None

    def named(self, digest: Digest, location: Location) -> Descriptor | None:
        """What a manifest that was read at this location said of a blob."""
        return self._plans.known(digest, location)

    def names(self, digest: Digest, size: int, location: Location) -> bool:
        """Whether any manifest that was read at this location gave a blob this size."""
        return self._plans.names(digest, size, location)

    async def open(
        self, blob: Descriptor, location: Location, asked: Asked | None = None, since: float | None = None
    ) -> OpenBlob:
        """The blob from the store, or on its way, which is begun where nobody has; `asked`: ranges of it alone.

        `since`: from when on its client waits, in seconds of the monotonic clock; None: from now on. Raises
        `DownloadFailed`, or the `OriginError` with which `location` has refused it already.
        """
        stored = self._open_stored(blob.digest)
        if stored is not None:
            return OpenBlob(
                Descriptor(blob.digest, stored.size),
                stored,
                again=lambda error: self._open_again(blob, location, asked, error),
            )
        key = blob.key
        if key in self._shelf.blobs and key not in self.machine.sought:
            self._carry_out()  # it has failed a moment ago
        is_pulled = asked is None or asked.behind is Behind.IMAGE
        ahead = self._settings.image_ahead and is_pulled
        following = self._plans.following(blob.digest, location) if ahead else []
        progress = await self._shelf.open(blob, location, following, asked)
        if progress is None:
            return await self.open(blob, location, asked, since)  # it was stored meanwhile
        if progress.readers.error is not None:
            raise progress.readers.error
        if progress.passes and len(progress.readers) and not self._shelf.has_memory(blob.size):
            raise DownloadFailed(f"no memory for one more reader of {blob.digest}, which passes by the store")
        reader = progress.readers.enter(location, is_ranged=asked is not None)
        if key in self.machine.sought:
            now = time.monotonic()
            self.machine.asks(key, reader.number, asked, now, since)
            self.machine.demand(key, location, now)
            self._carry_out_soon()
            place = self.machine.sought[key].places[location]
            if place.is_final and place.error is not None:
                progress.readers.leave(reader)
                raise place.error
        return OpenBlob(progress.descriptor, readers=progress.readers, reader=reader)

    def _open_stored(self, digest: Digest) -> StoredBlob | None:
        try:
            return self.library.open_blob(digest)
        except OutOfDescriptors as error:
            raise store_failed(error) from None
        except StoreError as error:
            self._condemn(digest, error)
            return None

    async def _open_again(
        self, blob: Descriptor, location: Location, asked: Asked | None, error: Exception
    ) -> OpenBlob:
        """The file of a stored blob cannot be read: it is fetched again. Raises as `open` does."""
        self._condemn(blob.digest, error)
        return await self.open(blob, location, asked)

    def _condemn(self, digest: Digest, error: Exception) -> None:
        log.error("blob.unreadable", digest=digest, error=str(error))
        size = self.library.size(digest)
        with contextlib.suppress(StoreError):  # it is not served any more, even where its file cannot be moved
            self.library.condemn(digest, "it cannot be read")
        if size is not None and self.library.size(digest) is None:
            self.machine.forgotten(BlobKey(digest, size))
            self._carry_out_soon()

    # --- blobs on their way (peer.shelf.Owner) ----------------------------------------------------------------------

    def opened(self, blobs: Sequence[BlobInProgress], location: Location, asked: Asked | None) -> None:
        """Blobs are open: get what is missing of them."""
        opened = [(blob.descriptor.key, blob.partial.have, blob.partial.table) for blob in blobs]
        passing = [blob.descriptor.key for blob in blobs if blob.passes]
        self.machine.open(opened, location, time.monotonic(), asked, passing)
        for key, have, _ in opened:
            if have:
                self._hash_on(key)
        self._carry_out_soon()

    def not_kept(self, error: StoreError) -> None:
        """A blob passes by the store."""
        self.condition.failed(error)

    def unreadable(self, blob: BlobInProgress, error: Exception) -> None:
        """What was written of a blob cannot be read: it is fetched again. Raises `DownloadFailed` where it is over."""
        key = blob.descriptor.key
        if self._shelf.blobs.get(key) is not blob or isinstance(error, Tampered):
            raise store_failed(error)
        if isinstance(blob.partial, Passage):
            blob.partial.leave_file()
            self.machine.pass_by(key, 0, blob.verifier.reached, time.monotonic())
        else:
            self._pass_by(blob, error, readable=False)
        self._carry_out_soon()

    def crowded(self) -> None:
        """A blob waits for room."""
        self.machine.make_room()
        self._carry_out_soon()

    def reading(self, key: BlobKey, reader: int, piece: int, waits_since: float | None) -> None:
        """A reader stands at a piece."""
        self.machine.reading(key, reader, piece, waits_since)
        if self.machine.has_commands:
            self._carry_out_soon()

    def left(self, key: BlobKey, reader: int) -> None:
        """A reader is gone."""
        self.machine.left(key, reader, time.monotonic())

    # --- what the machine wants done ------------------------------------------------------------------------------

    def _carry_out_soon(self) -> None:
        """Decide and act when all that comes at this moment has come."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._carry_out)

    def _carry_out(self) -> None:
        self._is_due = False
        for command in self.machine.take(time.monotonic()):
            try:
                self._do(command)
            except Exception:  # a fault of ours in one command must not lose the others
                log.exception("engine.command_failed", command=type(command).__name__)
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        wake_at = self.machine.wake_at
        if wake_at != float("inf"):
            delay = max(0.0, wake_at - time.monotonic())
            self._wake = asyncio.get_running_loop().call_later(delay, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self.machine.wake(time.monotonic())
        self._carry_out()

    def _do(self, command: Command) -> None:
        match command:
            case Send():
                self.neighbours.send(command.peers, command.message)
            case Land():
                self.own(self._land(command))
            case Serve():
                if not self._serving.serve(command.upload):
                    self.machine.unservable(command.upload)
                    self._carry_out_soon()
            case Tell():
                if self._control is not None:
                    self._control.send(command.message)
            case Fetch():
                self._fetcher.start(command, self._shelf.blobs[command.blob])
            case StopFetch():
                self._fetcher.stop(command.stream)
            case Dial():
                self.neighbours.dial(command.peer, command.host, command.port)
            case HangUp():
                self.neighbours.hang_up(command.peer, command.reason, command.shun)
            case Discard():
                log.warning("blob.void", digest=command.blob.digest, pieces=command.pieces.bit_count())
                self._shelf.blobs[command.blob].discard(command.pieces)
            case Hold():
                self._shelf.blobs[command.blob].hold(command.now, command.later)
            case Fail():
                self._failed(command.blob, command.error)
            case FailReaders():
                self._shelf.blobs[command.blob].readers.fail(command.error, command.location)
            case Answer():
                self._shelf.blobs[command.blob].readers.answer(command.reader, command.error)
            case Park():
                self._park(command.blob)
            case TellTable():
                self.own(self._tell_table(command.blob))

    async def _land(self, command: Land) -> None:
        key, piece, source = command.blob, command.piece, command.source
        blob = self._shelf.blobs.get(key)
        try:
            digest = None if blob is None else await self._write(blob, command)
        except (StoreError, OSError) as error:
            if self._shelf.blobs.get(key) is blob:  # else it failed before, and may be fetched again by now
                self.machine.unwritable(key, piece, source, store_failed(error))
            return
        finally:
            if isinstance(source, int):
                self._fetcher.landed(source)
            self._carry_out_soon()
        if blob is None or self._shelf.blobs.get(key) is not blob:
            return
        if digest is None:
            self.metrics.pieces.labels("corrupt").inc()
            log.warning("piece.corrupt", peer=source, digest=key.digest, piece=piece)
            assert not isinstance(source, int)
            assert command.expected is not None
            self.machine.corrupt(key, piece, source, command.expected, time.monotonic())
        elif self.machine.landed(key, piece, digest, source, time.monotonic()):
            if not isinstance(source, int):
                self.metrics.pieces.labels("verified").inc()
            try:
                blob.land(piece, command.content, digest)
            except Exception as error:  # the machine counts the piece already: nobody is to wait for it for ever
                log.exception("piece.lost", digest=key.digest, piece=piece)
                self.machine.fail(key, store_failed(error))
                return
            self._hash_on(key)
            if isinstance(blob.partial, Partial) and blob.partial.due(time.monotonic()):
                self.own(self._checkpoint(blob.partial))

    async def _write(self, blob: BlobInProgress, command: Land) -> bytes | None:
        """Write a piece; where the store does not take it, the blob passes by from then on. Raises `StoreError`."""
        may_make_room = True
        while True:
            passes = blob.passes
            try:
                return await blob.write(command.piece, command.content, command.expected)
            except (StoreError, OSError) as error:
                is_over = self._shelf.blobs.get(command.blob) is not blob
                if passes or is_over or isinstance(error, Tampered):
                    raise
                if may_make_room and isinstance(error, StoreFull) and await self._has_made_room():
                    may_make_room = False
                    continue
                self._pass_by(blob, error, readable=isinstance(error, StoreFull))

    async def _has_made_room(self) -> bool:
        try:
            return await self._workers.run_long(lambda: self.store.make_room(0))
        except StoreError:
            return False

    def _pass_by(self, blob: BlobInProgress, error: Exception, *, readable: bool) -> None:
        """The store takes no more of a blob; `readable`: what it took can be read."""
        if blob.passes:
            return
        self.condition.failed(error)
        log.info("blob.passes", digest=blob.descriptor.digest, error=str(error))
        passage = blob.pass_by(readable=readable)
        self.own(self._remove(passage))
        self.machine.pass_by(blob.descriptor.key, passage.filed, blob.verifier.reached, time.monotonic())
        self._carry_out_soon()

    async def _remove(self, passage: Passage) -> None:
        try:
            await self._workers.run_long(passage.remove_file)
        except StoreError as error:
            log.warning("blob.not_removed", digest=passage.digest, error=str(error))
        finally:
            passage.unnamed()

    def _hash_on(self, key: BlobKey) -> None:
        blob = self._shelf.blobs[key]
        if blob not in self._hashing and blob.verifier.ready():
            self._hashing.add(blob)
            self.own(self._hash(key, blob))

    async def _hash(self, key: BlobKey, blob: BlobInProgress) -> None:
        """Hash the blob as far as it is there; when that is all of it, it is right or it is not."""
        try:
            is_done = await blob.hash_on()
        except (StoreError, OSError) as error:
            if self._shelf.blobs.get(key) is blob:
                try:
                    self.unreadable(blob, error)
                except DownloadFailed as failure:
                    self.machine.fail(key, failure)
            return
        finally:
            self._hashing.discard(blob)
            self._carry_out_soon()
        if self._shelf.blobs.get(key) is blob:
            self.machine.hashed(key, blob.verifier.reached)
        if not is_done or self._shelf.blobs.get(key) is not blob:
            return
        if not blob.verifier.matches():
            log.error("blob.mismatch", digest=key.digest, size=key.size)
            self.machine.mismatched(key, time.monotonic())
            return
        try:
            await blob.finish()
        except (StoreError, OSError) as error:
            self._not_finished(key, blob, error)
        else:
            if self._shelf.blobs.get(key) is not blob:
                return
            self.metrics.ended.labels("complete").inc()
            if isinstance(blob.partial, Passage):
                self.machine.passed(key)
                await self._keep(blob.partial)
            else:
                self.condition.works()
                self.machine.verified(key, time.monotonic())
                self._shelf.end(blob, None)
        finally:
            self._carry_out_soon()

    async def _keep(self, passage: Passage) -> None:
        """A small blob that passes by, because too many files were open, is kept all the same."""
        content = passage.whole() if passage.may_be_kept else None
        if content is None:
            return
        try:
            if await self._workers.run_long(lambda: self.store.make_room(len(content))):
                await self._workers.run_long(lambda: self.store.put(passage.digest, content))
        except StoreError as error:
            self.condition.failed(error)

    def _not_finished(self, key: BlobKey, blob: BlobInProgress, error: Exception) -> None:
        """All of a blob is right, and it could not be put into its place: its readers go on all the same."""
        log.error("blob.not_stored", digest=key.digest, error=str(error))
        if self._shelf.blobs.get(key) is not blob:
            return
        if isinstance(error, Tampered) or not blob.readers.is_verified:
            self.machine.fail(key, store_failed(error))
            return
        self._pass_by(blob, error, readable=False)
        self.machine.passed(key)

    async def _checkpoint(self, partial: Partial) -> None:
        try:
            await self._workers.run_long(partial.checkpoint)
        except StoreError as error:
            log.warning("blob.not_saved", digest=partial.digest, error=str(error))

    async def _tell_table(self, key: BlobKey) -> None:
        """Tell the supernode the piece digests of a stored blob."""
        layout = PieceLayout.of(key.size)
        try:
            stored = self.library.open_blob(key.digest)
            if stored is None:
                return
            with stored:
                digests = await self._workers.run_long(lambda: _digests_of(stored.fd, layout))
        except (StoreError, OSError) as error:
            log.warning("blob.unreadable", digest=key.digest, error=str(error))
            self.machine.forgotten(key)
            return
        finally:
            self._carry_out_soon()
        if self._control is not None:
            self._control.send(protocol.Table(*key, to_bitfield(layout.all, layout.count), digests))

    # --- how blobs end --------------------------------------------------------------------------------------------

    def _failed(self, key: BlobKey, error: Exception) -> None:
        blob = self._shelf.blobs[key]
        log.warning("blob.failed", digest=key.digest, error=str(error) or repr(error))
        blob.fail(error)
        self.metrics.ended.labels(type(error).__name__).inc()
        self._shelf.end(blob, error)

    def _park(self, key: BlobKey) -> None:
        blob, away = self._shelf.blobs[key], DownloadFailed("the blob is put away")
        blob.fail(away)
        self._shelf.end(blob, away)
        if self.library.holds(key):
            self.offer(key)

    # --- what time brings -----------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            try:
                now = time.monotonic()
                for peer, connection in self.neighbours.all.items():
                    if connection.receiving:
                        self.machine.exchange.requests.moved(peer, connection.heard_at)
                self._serving.tick(self.machine.exchange.uploading.serving, now)
                self.machine.tick(now)
            except Exception:  # a fault of ours: without ticks nothing is announced and nobody is looked after
                log.exception("engine.tick_failed")
            self._carry_out()

    def offer(self, key: BlobKey) -> None:
        """A verified blob has come to be here that was not asked for."""
        if self._control is not None:
            self._control.send(protocol.Announce([protocol.Held(*key)]))

    def _withdraw(self, key: BlobKey) -> None:
        """A blob is gone from one of its places."""
        if key not in self.machine.sought and not self.library.holds(key):
            self.machine.forgotten(key)
            self._carry_out_soon()

    def _lost_blobs(self, lost: Sequence[Lost]) -> None:
        """Blobs are in the store no more: nobody is to ask for them, and what was damaged is somebody's to mend."""
        for blob in lost:
            if blob.size is not None:
                self._withdraw(BlobKey(blob.digest, blob.size))
            if blob.damaged:
                self.damaged(blob)

    def own(self, coroutine: Coroutine[None, None, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("engine.task_failed", exc_info=task.exception())

    # --- streams (peer.fetcher.Events) ----------------------------------------------------------------------------

    def received(self, stream: StreamId, count: int) -> None:
        """Bytes of an origin came."""
        self.machine.sourcing.received(stream, time.monotonic())
        self.metrics.bytes.labels("origin", "in").inc(count)

    def fetched(self, stream: StreamId, piece: int, content: bytearray) -> tuple[bool, bool]:
        """A stream has brought a piece."""
        self._carry_out_soon()
        return self.machine.sourcing.fetched(stream, piece, content)

    def fetch_ended(self, stream: StreamId, error: Exception | None) -> None:
        """A stream is over."""
        self.machine.fetch_ended(stream, error, time.monotonic())
        self._carry_out_soon()

    # --- neighbours (peer.neighbours.Handler) ---------------------------------------------------------------------

    def arrived(self, peer: PeerId) -> None:
        """A neighbour is connected."""
        self.machine.arrived(peer, time.monotonic())
        self._carry_out_soon()

    def gone(self, peer: PeerId, reason: str) -> None:
        """A neighbour's connection is over."""
        self.machine.gone(peer, time.monotonic())
        self._carry_out_soon()

    def unreachable(self, peer: PeerId) -> None:
        """A peer could not be connected to."""
        self.machine.unreachable(peer, time.monotonic())
        self._carry_out_soon()

    def said(self, peer: PeerId, event: wire.Event) -> None:
        """A message of a neighbour, or a piece; raises `InvalidMessage`."""
        now = time.monotonic()
        if isinstance(event, wire.PieceReceived):
            self._piece(peer, event, now)
        else:
            self.machine.said(peer, event, now)
        self._carry_out_soon()

    def accept(self, peer: PeerId, piece: wire.Piece) -> bytearray | None:
        """Memory for a piece that was asked for and is of the right length."""
        wanted = self.machine.exchange.accepts(peer, piece, time.monotonic())
        return bytearray(piece.length) if wanted else None

    def uploaded(self, upload: Upload) -> None:
        """A piece has been served, or could not be."""
        self.machine.uploaded(upload)
        self._carry_out_soon()

    def _piece(self, peer: PeerId, event: wire.PieceReceived, now: float) -> None:
        content = event.buffer
        seconds = None if content is None else self.machine.exchange.piece(peer, event.message, content, now)
        if seconds is None:
            self.metrics.pieces.labels("duplicate").inc()
        else:
            self.metrics.bytes.labels("peer", "in").inc(event.message.length)
            self.metrics.piece_seconds.observe(seconds)

    # --- the supernode (supernode.client.Listener) ----------------------------------------------------------------

    def hello(self) -> protocol.Hello:
        """Who this peer is."""
        settings = self._settings
        return protocol.Hello(
            protocol.VERSION,
            self.id,
            self.port,
            settings.advertise,
            settings.zone,
            returning=self._was_known,
            confirms=True,
        )

    def welcomed(self, announce_interval: float) -> None:
        """A supernode that knows nothing yet of this peer."""
        self._was_known = True
        self.machine.joined(announce_interval, time.monotonic())
        self._carry_out()

    def receive(self, message: protocol.FromSupernode) -> None:
        """A message of the supernode."""
        try:
            self.machine.heard(message, time.monotonic())
        except (InvalidMessage, ValueError) as error:
            log.warning("supernode.invalid_message", kind=type(message).__name__, error=str(error))
        self._carry_out_soon()

    def lost(self) -> None:
        """The supernode is gone."""
        self.machine.lost(time.monotonic())
        self._carry_out_soon()

    # --- what there is ----------------------------------------------------------------------------------------------

    def _open_file(self, key: BlobKey) -> int:
        """A file descriptor of a blob's data, for the caller to close; raises `OSError`, `StoreError`."""
        blob = self._shelf.blobs.get(key)
        if blob is not None and isinstance(blob.partial, Partial):
            return os.dup(blob.partial.fd)
        stored = self.library.open_blob(key.digest)
        if stored is None:
            raise FileNotFoundError(key.digest)
        with stored:
            return os.dup(stored.fd)


def _digests_of(fd: int, layout: PieceLayout) -> bytes:
    def digest(index: int) -> bytes:
        span = layout.span(index)
        return piece_digest(os.pread(fd, span.length, span.start))

    return b"".join(digest(index) for index in range(layout.count))


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _nobody(_: Lost) -> None:
    """Who mends damaged blobs where nobody does."""
