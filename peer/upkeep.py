"""What is done for a store while its daemon runs: limits are kept, uses noted, files hashed again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import structlog

from peer.disk import StoreError
from peer.figures import StoreFigures
from peer.metrics import PeerMetrics
from peer.store import Store
from peer.workers import Workers
from shoal.descriptor import BlobKey

log = structlog.get_logger()

_LOOK_SECONDS = 5.0
"""How often the limits are looked at, besides each time that a blob has been stored: others fill the disk too."""
_NOTE_SECONDS = 60.0
_MEASURE_SECONDS = 10.0
"""How old the figures are at most that metrics and reports tell."""
_PATIENCE_SECONDS = 1.0
_SCRUB_RATE = float(1 << 20)
"""Bytes/s at which files are hashed again at least: a disk hardly notices."""
_MAX_NAP_SECONDS = 3600.0
_LEAST_PRIORITY = 19


class Told(Protocol):
    """Who is told of blobs (`peer.presence` implements it)."""

    def offer(self, key: BlobKey) -> None:
        """A stored blob turned out to be right, which was not known before."""


class Upkeep:
    """The owner of a store's background work; `run` ends when it is cancelled."""

    def __init__(self, store: Store, workers: Workers, period: float, told: Told, metrics: PeerMetrics) -> None:
        """`period`: the seconds in which all stored blobs are hashed again; 0: never."""
        self._store = store
        self._workers = workers
        self._period = period
        self._has_new_period = asyncio.Event()
        self._wants_figures = asyncio.Event()
        self._has_figures = asyncio.Event()
        """Of the measurement that begins next."""
        self._told = told
        self._metrics = metrics
        metrics.scrub_period.set(period)

    def reconfigure(self, period: float) -> None:
        """All stored blobs are hashed again in so many seconds from now on; 0: never."""
        self._period = period
        self._metrics.scrub_period.set(period)
        self._has_new_period.set()

    async def measure(self) -> StoreFigures:
        """Find out how full the store is. Where its disk does not answer, it is as full as it was measured last."""
        has_figures = self._has_figures
        self._wants_figures.set()
        await _wait(has_figures, _PATIENCE_SECONDS)
        return self._metrics.figures

    async def run(self) -> None:
        """Do all of it, side by side."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._recheck())
            group.create_task(self._hold_limits())
            group.create_task(self._note_uses())
            group.create_task(self._measure())
            group.create_task(self._scrub())

    async def _recheck(self) -> None:
        """Hash stored blobs of which it is not known that they are right, one after the other."""
        rechecking = self._store.recheck()
        while True:
            try:
                found = await self._workers.run_long(lambda: next(rechecking, None))
            except StoreError as error:
                log.error("store.not_rechecked", error=str(error))
                return
            if found is None:
                return
            digest, right = found
            size = self._store.size(digest)
            if right and size is not None:
                self._told.offer(BlobKey(digest, size))

    async def _hold_limits(self) -> None:
        while True:
            try:
                await self._workers.run_long(self._store.hold_limits)
                self._metrics.swept_at.set_to_current_time()
            except StoreError as error:
                log.warning("store.over_limits", error=str(error))
            await asyncio.sleep(_LOOK_SECONDS)

    async def _note_uses(self) -> None:
        while True:
            await asyncio.sleep(_NOTE_SECONDS)
            await self._workers.run_long(self._store.note_uses)

    async def _measure(self) -> None:
        while True:
            self._wants_figures.clear()
            has_figures, self._has_figures = self._has_figures, asyncio.Event()
            try:
                self._metrics.figures = await self._workers.run_long(self._store.figures)
            except StoreError as error:
                log.warning("store.not_measured", error=str(error))
            has_figures.set()
            await _wait(self._wants_figures, _MEASURE_SECONDS)

    async def _scrub(self) -> None:
        """Hash each blob again when its time has come, those that wait longest first."""
        loop, stopping = asyncio.get_running_loop(), threading.Event()
        pool = ThreadPoolExecutor(1, thread_name_prefix="shoal-scrub", initializer=_be_patient)
        try:
            while True:
                period = self._period
                if period:
                    delay = await loop.run_in_executor(pool, self._scrub_next, period, stopping)
                else:
                    delay = _MAX_NAP_SECONDS
                await _wait(self._has_new_period, delay)
                self._has_new_period.clear()
        finally:
            stopping.set()
            pool.shutdown(wait=True)

    def _scrub_next(self, period: float, stopping: threading.Event) -> float:
        """In a thread of its own; returns after how many seconds to go on."""
        found = self._store.longest_unchecked()
        if found is None:
            return min(period, _MAX_NAP_SECONDS)
        digest, _, age = found
        if age < period:
            return min(period - age, _MAX_NAP_SECONDS)
        rate = max(_SCRUB_RATE, sum(size for _, size in self._store.digests()) / period)

        def pace(count: int) -> None:
            if stopping.wait(count / rate):
                raise _Stopped

        try:
            right = self._store.check(digest, pace)
        except StoreError as error:
            self._metrics.scrubbed_one("unreadable")
            log.error("blob.not_checked", digest=digest, error=str(error))
        except _Stopped:
            log.debug("blob.not_checked", digest=digest, error="the daemon is shutting down")
        else:
            if right is not None:
                self._metrics.scrubbed_one("right" if right else "damaged")
            log.debug("blob.checked", digest=digest, right=right)
        return 0.0


class _Stopped(Exception):
    """The daemon shuts down before a file is hashed."""


def _be_patient() -> None:
    """This thread has the processor when nobody else wants it, unless a sandbox refuses that."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LEAST_PRIORITY)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Until something happens, but no longer than that."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
