"""The piece engine: every blob that is asked for comes from the store, the swarm or the origin, and is fetched once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Self

import structlog
from prometheus_client import CollectorRegistry

from peer.download import Download
from peer.errors import DigestMismatch, DownloadFailed, Stopping
from peer.exchange import PieceExchange
from peer.metrics import PeerMetrics
from peer.origin import Origin
from peer.plans import ImagePlans
from peer.serving import Offer
from peer.settings import PeerSettings
from peer.sourcing import Sourcing
from peer.store import Store, StoreError
from peer.workers import Workers
from shoal.descriptor import Descriptor
from shoal.digest import Digest
from shoal.pieces import PieceIndex, PieceLayout
from shoal.reference import Location
from supernode.client import ControlClient
from supernode.protocol import PeerId

log = structlog.get_logger()

_TICK_SECONDS = 0.25


class OpenBlob:
    """A blob that somebody reads: in the store, or on its way. Leaving the context does not stop the download."""

    def __init__(self, descriptor: Descriptor, stored: Path | None, download: Download | None) -> None:
        self.descriptor = descriptor
        self.stored = stored
        self.download = download
        if download is not None:
            download.use(1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.download is not None:
            self.download.use(-1)

    async def ready(self, start: int) -> None:
        """Wait until a byte at `start` can be given; raises `OriginError` or `DownloadFailed`."""
        if self.download is not None:
            await self.download.wait(start)

    async def read(self, start: int, end: int) -> AsyncIterator[bytes | memoryview]:
        """Bytes `start` to `end` as they come; raises `OriginError` or `DownloadFailed`."""
        if self.download is not None:
            async for content in self.download.read(start, end):
                yield content
        elif self.stored is not None:
            layout = PieceLayout.of(self.descriptor.size)
            with self.stored.open("rb") as file:
                for offset in range(start, end, layout.piece_size):
                    yield os.pread(file.fileno(), min(layout.piece_size, end - offset), offset)


class Engine:
    """The downloads of one peer, as an async context manager. `control` is None where there is no supernode."""

    def __init__(
        self,
        settings: PeerSettings,
        store: Store,
        origin: Origin,
        control: ControlClient | None,
        registry: CollectorRegistry,
    ) -> None:
        self.id = PeerId(secrets.token_hex(16))
        self.store = store
        self.metrics = PeerMetrics(registry)
        self._settings = settings
        self.workers = Workers()
        self._plans = ImagePlans()
        self._downloads: dict[Digest, Download] = {}
        self._retried: set[Digest] = set()
        self._stopping = False
        self._stack = contextlib.AsyncExitStack()
        self._saving: set[asyncio.Task[None]] = set()
        self._closing: dict[Digest, asyncio.Task[None]] = {}
        self.exchange = PieceExchange(
            self, self.metrics, self.id, settings.host, settings.port, settings.upload_slots, random.Random()
        )
        self.sourcing = Sourcing(self, settings, origin, control)
        self.metrics.downloads.set_function(lambda: len(self._downloads))
        self.metrics.blobs.set_function(lambda: sum(1 for _ in store.digests()))

    @property
    def port(self) -> int:
        """The port on which other peers reach this one."""
        return self.exchange.neighbours.port

    @property
    def downloads(self) -> dict[Digest, Download]:
        return self._downloads

    async def __aenter__(self) -> Self:
        self._stack.callback(self.workers.close)
        await self._stack.enter_async_context(self.exchange.neighbours)
        await self._stack.enter_async_context(self.sourcing)
        ticking = asyncio.create_task(self._tick())
        self._stack.push_async_callback(_ended, ticking)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(0.0)
        await self._stack.aclose()

    async def stop(self, grace: float) -> None:
        """No new downloads; those that somebody waits for may go on for `grace` seconds; then all state is saved."""
        self._stopping = True
        deadline = time.monotonic() + grace
        waited_for = [d for d in self._downloads.values() if d.readers or d.waited_for]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(0.0, deadline - time.monotonic())):
                await asyncio.gather(*(download.finished.wait() for download in waited_for))
        for download in list(self._downloads.values()):
            download.fail(Stopping("the daemon is shutting down"))
        await self.exchange.settle()
        await asyncio.gather(*self._saving)

    # --- what the proxy asks for (design, section 3) --------------------------------------------------------------

    def expect(self, blobs: Sequence[Descriptor], location: Location) -> None:
        """A manifest was read that names these blobs, in this order."""
        self._plans.expect(blobs, location)

    def known(self, digest: Digest) -> Descriptor | None:
        """A blob's size, from the store, a download or a manifest."""
        size = self.store.size(digest)
        if size is not None:
            return Descriptor(digest, size)
        download = self._downloads.get(digest)
        return download.blob if download is not None else self._plans.known(digest)

    async def open(self, blob: Descriptor, location: Location) -> OpenBlob:
        """The blob from the store, or its download, which is begun where there is none. Raises `DownloadFailed`."""
        size = self.store.size(blob.digest)
        if size is not None:
            return OpenBlob(Descriptor(blob.digest, size), self.store.path(blob.digest), None)
        if blob.digest in self._closing:
            await asyncio.wait([self._closing[blob.digest]])
        download = self._downloads.get(blob.digest)
        if download is None:
            if self._stopping:
                raise Stopping("the daemon is shutting down")
            ahead = self._plans.following(blob.digest, location) if self._settings.image_ahead else ()
            started = [self._start(each, location) for each in (blob, *ahead) if self._absent(each.digest)]
            download = started[0]
            download.demanded = True
            self.sourcing.opened(started)
        elif not download.demanded:
            download.demanded = True
            self.sourcing.demanded(download)
        return OpenBlob(download.blob, None, download)

    def _absent(self, digest: Digest) -> bool:
        return not (digest in self._downloads or digest in self._closing or self.store.size(digest) is not None)

    def _start(self, blob: Descriptor, location: Location) -> Download:
        try:
            partial = self.store.partial(blob.digest, blob.size)
        except (ValueError, StoreError, OSError) as error:
            raise DownloadFailed(str(error)) from None
        download = Download(blob, location, partial, self.workers, gained=self._gained, ended=self._ended)
        self._downloads[blob.digest] = download
        self.exchange.open(download)
        return download

    # --- what downloads tell --------------------------------------------------------------------------------------

    def _gained(self, download: Download, index: PieceIndex, rare: bool) -> None:
        self.exchange.gained(download, index, rare)
        self.sourcing.gained(download)
        if download.partial.due(time.monotonic()):
            self._own(self.workers.run_long(download.partial.checkpoint))

    def _ended(self, download: Download) -> None:
        digest = download.blob.digest
        if isinstance(download.error, DigestMismatch) and self._try_again(download):
            return
        self.exchange.close(download)
        del self._downloads[digest]
        self._retried.discard(digest)
        outcome = "complete" if download.error is None else type(download.error).__name__
        self.metrics.ended.labels(outcome).inc()
        self.sourcing.ended(download)
        if download.error is not None:
            log.warning("blob.failed", digest=digest, error=str(download.error) or repr(download.error))
            self.exchange.withdraw(digest)
        download.finished.set()
        self._closing[digest] = self._own(self._put_away(download))

    def _try_again(self, download: Download) -> bool:
        """A blob that is wrong though each piece was right begins again once; the supernode hears of it."""
        self.sourcing.corrupt(download)
        if download.blob.digest in self._retried or not download.swarmed:
            return False
        self._retried.add(download.blob.digest)
        download.error = None
        self.void(download)
        return True

    def void(self, download: Download) -> None:
        """What there is of a blob cannot be trusted."""
        log.warning("blob.void", digest=download.blob.digest)
        download.restart()
        self.exchange.restart(download)

    async def _put_away(self, download: Download) -> None:
        try:
            if isinstance(download.error, DigestMismatch):
                await self.workers.run_long(download.partial.abort)
            elif download.error is not None and download.have:
                await self.workers.run_long(download.partial.checkpoint)
        except StoreError as error:
            log.warning("blob.not_saved", digest=download.blob.digest, error=str(error))
        finally:
            await download.unused.wait()
            download.partial.close()
            del self._closing[download.blob.digest]

    def _own(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._saving.add(task)
        task.add_done_callback(self._saved)
        return task

    def _saved(self, task: asyncio.Task[None]) -> None:
        self._saving.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("store.failed", error=repr(task.exception()))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self.exchange.tick()
            self.sourcing.tick(time.monotonic())

    # --- what neighbours may have (peer.serving.Library) ---------------------------------------------------------

    def offer(self, digest: Digest) -> Offer | None:
        """What there is of a blob."""
        download = self._downloads.get(digest)
        if download is not None:
            return Offer(download.layout, download.have)
        size = self.store.size(digest)
        if size is None:
            return None
        layout = PieceLayout.of(size)
        return Offer(layout, layout.all)

    def open_file(self, digest: Digest) -> int:
        """A file descriptor of a blob's data, for the caller to close; raises `OSError`."""
        download = self._downloads.get(digest)
        return os.dup(download.partial.fd) if download is not None else os.open(self.store.path(digest), os.O_RDONLY)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
