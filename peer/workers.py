"""The threads that hash, write and sync: these release the interpreter's lock, so that the event loop goes on."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_MAX_THREADS = 4

_Job = tuple["asyncio.Future[Any]", Callable[[], Any]]
_Done = tuple["asyncio.Future[Any]", Any, BaseException | None]


class Workers:
    """Threads for pieces, one less than there are processors since the event loop fills one; more for what takes long.

    Whole blobs are hashed and synced in the second: neither waits there behind the pieces that came meanwhile, nor do
    pieces wait for the disk. Belongs to the event loop in which it is made.
    """

    def __init__(self) -> None:
        processors = os.cpu_count() or 2
        self._pieces = _PieceThreads(min(max(processors - 1, 1), _MAX_THREADS))
        self._long = ThreadPoolExecutor(min(max(processors, 2), _MAX_THREADS), thread_name_prefix="shoal-long")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do `work` in a thread; its exceptions are raised here."""
        return await self._pieces.run(lambda: work(*args, **kwargs))

    async def run_long(self, work: Callable[[], T]) -> T:
        """Do `work`, which hashes much or waits for the disk, in a thread; its exceptions are raised here."""
        return await asyncio.get_running_loop().run_in_executor(self._long, work)

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._pieces.close()
        self._long.shutdown(wait=True)


class _PieceThreads:
    """What `ThreadPoolExecutor` does, for jobs of a tenth of a millisecond: all results that are there wake the loop
    once. An image of 300 MB is 1,200 of them.
    """

    def __init__(self, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._done: deque[_Done] = deque()
        self._woken = False
        self._threads = [
            threading.Thread(target=self._work, name=f"shoal-piece-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put((future, work))
        return future

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._deliver()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, work = job
            try:
                result, error = work(), None
            except BaseException as caught:
                result, error = None, caught
            self._done.append((future, result, error))
            del job, future, work, result, error  # else what a piece holds stays until the next
            if not self._woken:
                self._woken = True
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        while self._done:
            future, result, error = self._done.popleft()
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
