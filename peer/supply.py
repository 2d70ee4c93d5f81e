"""The blobs of this node for its proxy: given from the store, the swarm or the origin, and kept as operators want."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from peer.asked import Asked, Behind
from peer.blob import store_failed
from peer.condition import StoreCondition
from peer.disk import OutOfDescriptors, StoreError, StoreFull
from peer.errors import DownloadFailed, Unwanted
from peer.holdings import Holdings
from peer.openblob import OpenBlob
from peer.plans import ImagePlans
from peer.presence import Presence
from peer.runner import Runner
from peer.shelf import Shelf
from peer.store import Store
from peer.storedblob import StoredBlob
from peer.workers import Workers
from shoal.descriptor import BlobKey, Descriptor
from shoal.digest import Digest
from shoal.reference import Location
from shoal.traces import Traces


class Supply:
    """All that the proxy asks of its peer (design, section 3). Belongs to the event loop."""

    def __init__(
        self,
        store: Store,
        holdings: Holdings,
        presence: Presence,
        condition: StoreCondition,
        shelf: Shelf,
        runner: Runner,
        workers: Workers,
        *,
        image_ahead: bool,
        traces: Traces,
    ) -> None:
        """`image_ahead`: whether the blobs that follow one in its manifest are opened with it."""
        self._store = store
        self._holdings = holdings
        self._presence = presence
        self._condition = condition
        self._shelf = shelf
        self._runner = runner
        self._workers = workers
        self.image_ahead = image_ahead
        self._traces = traces
        self._plans = ImagePlans()
        self._preheats: Counter[BlobKey] = Counter()
        """The blobs that are being preheated, and for how many."""

    # --- for clients ------------------------------------------------------------------------------------------------

    def stored(self, digest: Digest) -> int | None:
        """Bytes of a blob that this node holds."""
        return self._holdings.size(digest)

    def expect(self, blobs: Sequence[Descriptor], location: Location) -> None:
        """A manifest was read at `location` that names these blobs, in this order."""
        self._plans.expect(blobs, location)

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
        with self._traces.part("blob.open", {"shoal.digest": blob.digest, "shoal.size": blob.size}) as span:
            underway = self._shelf.blobs.get(blob.key)
            if underway is not None:
                span.link(underway.span)
            return await self._open(blob, location, asked, since)

    async def _open(self, blob: Descriptor, location: Location, asked: Asked | None, since: float | None) -> OpenBlob:
        stored = self._open_stored(blob.digest)
        if stored is not None:
            return OpenBlob(
                Descriptor(blob.digest, stored.size),
                stored,
                again=lambda error: self._open_again(blob, location, asked, error),
            )
        key, machine = blob.key, self._runner.machine
        if key in self._shelf.blobs and key not in machine.sought:
            self._runner.carry_out()  # it has failed a moment ago
        is_pulled = asked is None or asked.behind is Behind.IMAGE
        ahead = self.image_ahead and is_pulled
        following = self._plans.following(blob.digest, location) if ahead else []
        progress = await self._shelf.open(blob, location, following, asked)
        if progress is None:
            return await self._open(blob, location, asked, since)  # it was stored meanwhile
        if progress.readers.error is not None:
            raise progress.readers.error
        if progress.passes and len(progress.readers) and not self._shelf.has_memory(blob.size):
            raise DownloadFailed(f"no memory for one more reader of {blob.digest}, which passes by the store")
        reader = progress.readers.enter(location, is_ranged=asked is not None)
        if key in machine.sought:
            now = time.monotonic()
            machine.asks(key, reader.number, asked, now, since)
            machine.demand(key, location, now)
            machine.pull([each.key for each in following], now)
            self._runner.carry_out_soon()
            place = machine.sought[key].places[location]
            if place.is_final and place.error is not None:
                progress.readers.leave(reader)
                raise place.error
        return OpenBlob(progress.descriptor, readers=progress.readers, reader=reader)

    def _open_stored(self, digest: Digest) -> StoredBlob | None:
        try:
            return self._holdings.open_blob(digest)
        except OutOfDescriptors as error:
            raise store_failed(error) from None
        except StoreError as error:
            self._presence.condemn(digest, error)
            return None

    async def _open_again(
        self, blob: Descriptor, location: Location, asked: Asked | None, error: Exception
    ) -> OpenBlob:
        """The file of a stored blob cannot be read: it is fetched again. Raises as `open` does."""
        self._presence.condemn(blob.digest, error)
        return await self.open(blob, location, asked)

    # --- for what is preheated --------------------------------------------------------------------------------------

    async def preheat(self, blob: Descriptor, location: Location) -> None:
        """Get a blob into the store; all that clients wait for goes before it.

        When this is cancelled, and nobody else wants the blob, what has come of it waits in the store for the next
        time. Raises `StoreError` where the store does not take it, `OriginError` or `DownloadFailed`.
        """
        progress = None if self.stored(blob.digest) is not None else await self._shelf.preheat(blob, location)
        if progress is None:
            return
        key, machine = blob.key, self._runner.machine
        self._preheats[key] += 1
        try:
            if key in machine.sought:
                machine.preheat(key)
                self._runner.carry_out_soon()
            await progress.settled.wait()
        finally:
            self._preheats[key] -= 1
            if not self._preheats[key]:
                del self._preheats[key]
                machine.cool(key, Unwanted("nobody preheats it any more"))
                self._runner.carry_out_soon()
        if progress.passes:
            raise StoreFull(self._condition.fault or "the store does not take it")
        if progress.readers.error is not None:
            raise progress.readers.error

    def arrived(self, blob: Descriptor) -> int:
        """Bytes of a blob that are here, of one on its way too."""
        if self.stored(blob.digest) is not None:
            return blob.size
        progress = self._shelf.blobs.get(blob.key)
        return 0 if progress is None else progress.layout.bytes_of(progress.partial.have)

    @property
    def is_pulling(self) -> bool:
        """Whether a blob is coming that a client waits for."""
        return self._runner.machine.is_pulling(time.monotonic())

    def is_sound(self, digest: Digest) -> bool:
        """Whether a blob is here, verified, and its file still what was verified. Raises `DownloadFailed`."""
        stored = self._open_stored(digest)
        if stored is None:
            return False
        with stored:
            return True

    # --- for operators, and for what mends the store ----------------------------------------------------------------

    @property
    def store_fault(self) -> str:
        """Why the store takes nothing; empty as long as it works."""
        return self._condition.fault

    def in_store(self) -> list[tuple[Digest, int]]:
        """All blobs of the store with their sizes in bytes."""
        return list(self._store.digests())

    async def verify(self) -> AsyncIterator[tuple[Digest, bool]]:
        """Hash all blobs of the store; those that are wrong go to quarantine. Raises `StoreError`."""
        verifying = self._store.verify()
        while (found := await self._workers.run_long(lambda: next(verifying, None))) is not None:
            yield found

    async def is_needed(self, digest: Digest) -> bool:
        """Whether a manifest or a pin needs a blob."""
        return await self._workers.run_long(lambda: self._store.is_needed(digest))

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
        return self._store.size(blob.digest) is not None
