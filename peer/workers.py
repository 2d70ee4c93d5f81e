"""The threads that hash and write, and those that wait for the disk: all release the interpreter's lock meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_MAX_THREADS = 4


class Workers:
    """As many threads as there are processors, two to four, for work; as many again that only wait for the disk.

    Were they the same, each sync of a large blob would stop half of the hashing: a fifth of the time at 1 GB/s.
    """

    def __init__(self) -> None:
        threads = min(max(os.cpu_count() or 2, 2), _MAX_THREADS)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="shoal-worker")
        self._syncing = ThreadPoolExecutor(threads, thread_name_prefix="shoal-sync")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do `work` in a thread; its exceptions are raised here."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*args, **kwargs))

    async def sync(self, work: Callable[[], T]) -> T:
        """Do `work`, which waits for the disk, in a thread; its exceptions are raised here."""
        return await asyncio.get_running_loop().run_in_executor(self._syncing, work)

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._pool.shutdown(wait=True)
        self._syncing.shutdown(wait=True)
