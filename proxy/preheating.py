"""What the supernode has this node preheat: images that are to be here before a client asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self

import structlog

from peer.disk import StoreError
from peer.errors import DownloadFailed
from peer.origin import OriginDenied, OriginError, OriginUnavailable
from peer.store import Store
from peer.supply import Supply
from proxy.belongings import Belongings, Unfit
from proxy.errors import RequestError
from proxy.reading import ImageReader
from shoal.descriptor import Descriptor, InvalidManifest
from shoal.digest import Digest
from shoal.redaction import redacted
from shoal.reference import InvalidReference, Location, Reference
from supernode import protocol
from supernode.client import Preheating as Message
from supernode.protocol import PreheatState

log = structlog.get_logger()

_IMAGES_AT_ONCE, _BLOBS_AT_ONCE = 2, 8
"""Images that are preheated at a time, and blobs of each."""
_MAX_RUNS = 4096
_TELL_SECONDS, _AGAIN_SECONDS = 1.0, 5.0
"""Between two reports of what has changed, and of what has not."""
_SILENT_SECONDS = 120.0
"""For which nothing comes of an image, nor of anything that clients wait for, before it is given up."""
_MAX_ERROR = 500
_ENDS = frozenset({PreheatState.DONE, PreheatState.FAILED, PreheatState.CANCELLED})

Key = tuple[str, str]
"""A job, and an image of it."""


@dataclass(eq=False)
class _Run:
    """One image of one job, and how it goes."""

    order: protocol.Preheat
    state: str = PreheatState.WAITING
    parts: Belongings = field(default_factory=Belongings)
    arrived: int = 0
    told: protocol.PreheatProgress | None = None
    told_at: float = 0.0
    ended: protocol.PreheatProgress | None = None
    task: asyncio.Task[None] | None = None

    @property
    def key(self) -> Key:
        return self.order.job, self.order.image

    def progress(self, **more: object) -> protocol.PreheatProgress:
        """What is to be said of it now."""
        if self.ended is not None:
            return self.ended
        size = sum(blob.size for blob in self.parts.blobs.values())
        said = {
            "arrived": self.arrived,
            "size": size,
            "blobs": len(self.parts.blobs),
            "referrers": self.parts.referrers,
        }
        return protocol.PreheatProgress(*self.key, self.state, **(said | more))  # type: ignore[arg-type]


class Preheating:
    """All that is preheated here, as an async context manager. What happens is told to the supernode by `tell`."""

    def __init__(
        self,
        images: ImageReader,
        supply: Supply,
        store: Store,
        tell: Callable[[protocol.FromPeer], None],
        limit: Callable[[float], None],
    ) -> None:
        """`limit` hears the bytes per second that all of it may take; 0: as much as the node lets it."""
        self._images = images
        self._supply = supply
        self._store = store
        self._tell = tell
        self._limit = limit
        self._runs: dict[Key, _Run] = {}
        self._turns = asyncio.Semaphore(_IMAGES_AT_ONCE)
        self._asides: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._telling = asyncio.create_task(self._tell_on(), name="progress of preheating")
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [self._telling, *self._asides, *(run.task for run in self._runs.values() if run.task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def hear(self, message: Message) -> None:
        """What the supernode says."""
        match message:
            case protocol.Preheat():
                self._begin(message)
            case protocol.CancelPreheat():
                self._cancel((message.job, message.image))
            case protocol.KeepPins():
                self._aside(self._keep_pins(message))
            case protocol.ListTags():
                self._aside(self._list_tags(message))

    # --- runs -------------------------------------------------------------------------------------------------------

    def _begin(self, order: protocol.Preheat) -> None:
        run = self._runs.get((order.job, order.image))
        if run is not None:
            self._tell(run.progress())
            return
        run = _Run(order)
        if len(self._runs) >= _MAX_RUNS:
            run.state = PreheatState.FAILED
            self._tell(run.progress(error="this node preheats too many images already", again=True))
            return
        self._runs[run.key] = run
        run.task = asyncio.create_task(self._run(run))
        run.task.add_done_callback(lambda task: self._end(run, PreheatState.CANCELLED) if task.cancelled() else None)

    def _cancel(self, key: Key) -> None:
        run = self._runs.get(key)
        if run is None:
            self._tell(protocol.PreheatProgress(*key, PreheatState.CANCELLED))
        elif run.task is not None:
            run.task.cancel()

    async def _run(self, run: _Run) -> None:
        try:
            async with self._turns:
                run.state = PreheatState.RUNNING
                self._limit_all()
                digest = await self._preheat(run)
            self._end(run, PreheatState.DONE, digest=digest)
        except Exception as error:  # where the task ends
            text, again = _reason(error)
            if text is None:
                log.exception("preheat.fault", image=run.order.image)
                text = "a fault inside; the node's log says which"
            self._end(run, PreheatState.FAILED, error=text[:_MAX_ERROR], again=again)

    def _end(self, run: _Run, state: str, **more: object) -> None:
        run.state = state
        run.arrived = sum(map(self._supply.arrived, run.parts.blobs.values()))
        run.ended = run.progress(**more)
        del self._runs[run.key]
        self._limit_all()
        log.info("preheat.ended", image=run.order.image, job=run.order.job, state=state, error=run.ended.error)
        self._tell(run.ended)

    def _limit_all(self) -> None:
        """The strictest rate of all that run holds for all of them together."""
        rates = [run.order.rate for run in self._runs.values() if run.state == PreheatState.RUNNING and run.order.rate]
        self._limit(min(rates, default=0))

    async def _tell_on(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_TELL_SECONDS)
            for run in self._runs.values():
                run.arrived = sum(map(self._supply.arrived, run.parts.blobs.values()))
                said = run.progress()
                if said != run.told or loop.time() - run.told_at >= _AGAIN_SECONDS:
                    run.told, run.told_at = said, loop.time()
                    self._tell(said)

    # --- one image --------------------------------------------------------------------------------------------------

    async def _preheat(self, run: _Run) -> Digest:
        """Get an image; returns what its reference stands for when all of it was found in the store."""
        order = run.order
        reference = Reference.parse(order.image)
        location = self._images.locate(reference)
        root = await run.parts.gather(self._images, location, reference.target, order.platforms)
        if order.referrers:
            await run.parts.gather_referrers(self._images, location)
        await self._fetch(run, location)
        missing = [digest for digest in run.parts.blobs if not self._supply.is_sound(digest)]
        if missing:
            reason = self._supply.store_fault or "they have gone again"
            raise Unfit(f"{len(missing)} of {len(run.parts.blobs)} blobs are not in the store: {reason}")
        if order.pin:
            await self._pin(root.digest, order.pin)
        return root.digest

    async def _fetch(self, run: _Run, location: Location) -> None:
        """Get all blobs; the first failure ends it."""
        slots = asyncio.Semaphore(_BLOBS_AT_ONCE)

        async def fetch(blob: Descriptor) -> None:
            async with slots:
                await self._supply.preheat(blob, location)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(fetch(blob)) for blob in run.parts.blobs.values()]
                group.create_task(self._watch(run, tasks))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _watch(self, run: _Run, tasks: Iterable[asyncio.Task[None]]) -> None:
        """Raises `DownloadFailed` when nothing has come for too long."""
        loop, pending = asyncio.get_running_loop(), set(tasks)
        moved_at, before = loop.time(), -1
        while pending:
            _, pending = await asyncio.wait(pending, timeout=_TELL_SECONDS)
            arrived = sum(map(self._supply.arrived, run.parts.blobs.values()))
            if arrived != before or self._supply.is_pulling:
                moved_at, before = loop.time(), arrived
            if loop.time() - moved_at > _SILENT_SECONDS:
                raise DownloadFailed(f"nothing has come for {_SILENT_SECONDS:g} s")

    # --- pins and tags ----------------------------------------------------------------------------------------------

    async def _pin(self, digest: Digest, name: str) -> None:
        if self._store.size(digest) is None:
            raise Unfit("it is here in containerd's store alone, where nothing can be pinned")
        await asyncio.to_thread(self._pin_alone, digest, name)

    def _pin_alone(self, digest: Digest, name: str) -> None:
        """What the name stood for before is let go; in a thread."""
        if any(name in names for pinned, names in self._store.pins().items() if pinned != digest):
            self._store.unpin(name)
        self._store.pin(digest, name)

    async def _keep_pins(self, message: protocol.KeepPins) -> None:
        kept = set(message.names)
        for name in [name for name in self._pin_names() if name.startswith(f"{message.owner} ") and name not in kept]:
            await asyncio.to_thread(self._store.unpin, name)
            log.info("image.unpinned", image=name)

    def _pin_names(self) -> Iterator[str]:
        return (name for names in self._store.pins().values() for name in names)

    async def _list_tags(self, message: protocol.ListTags) -> None:
        try:
            reference = Reference.parse(f"{message.registry}/{message.repository}")
            location = self._images.locate(reference)
            tags = await self._images.tags(location, message.pattern, protocol.MAX_BLOBS)
            self._tell(protocol.Tags(message.query, list(tags)))
        except Exception as error:
            text, _ = _reason(error)
            if text is None:
                raise
            self._tell(protocol.Tags(message.query, error=text[:_MAX_ERROR]))

    def _aside(self, work: Coroutine[None, None, None]) -> None:
        async def logged() -> None:
            try:
                await work
            except Exception:  # where the task ends
                log.exception("preheat.aside_failed")

        task = asyncio.create_task(logged())
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)


def _reason(error: Exception) -> tuple[str | None, bool]:
    """What to say of a failure, None where it is a fault of ours, and whether it may go well the next time."""
    match error:
        case OriginDenied():
            return f"the registry refuses this node: {redacted(str(error))}", False
        case OriginUnavailable() | DownloadFailed() | TimeoutError():
            return redacted(str(error)) or type(error).__name__, True
        case StoreError():
            return f"the store does not take it: {error}", False
        case OriginError() | RequestError() | Unfit() | InvalidReference() | InvalidManifest() | ValueError():
            return redacted(str(error)) or type(error).__name__, False
    return None, True
