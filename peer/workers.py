"""The threads that hash, write and sync: these release the interpreter's lock, so that the event loop goes on."""

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
    """Threads for pieces, one less than there are processors since the event loop fills one; more for what takes long.

    Whole blobs are hashed and synced in the second: neither waits there behind the pieces that came meanwhile, nor do
    pieces wait for the disk.
    """

    def __init__(self) -> None:
        processors = os.cpu_count() or 2
        self._pool = ThreadPoolExecutor(min(max(processors - 1, 1), _MAX_THREADS), thread_name_prefix="shoal-piece")
        self._long = ThreadPoolExecutor(min(max(processors, 2), _MAX_THREADS), thread_name_prefix="shoal-long")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do `work` in a thread; its exceptions are raised here."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*args, **kwargs))

    async def run_long(self, work: Callable[[], T]) -> T:
        """Do `work`, which hashes much or waits for the disk, in a thread; its exceptions are raised here."""
        return await asyncio.get_running_loop().run_in_executor(self._long, work)

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._pool.shutdown(wait=True)
        self._long.shutdown(wait=True)
