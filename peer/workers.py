"""The small thread pool that hashes and writes: both release the interpreter's lock, so that the event loop goes on."""

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
    """A pool of as many threads as there are processors, two to four."""

    def __init__(self) -> None:
        threads = min(max(os.cpu_count() or 2, 2), _MAX_THREADS)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="shoal-worker")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do `work` in a thread; its exceptions are raised here."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*args, **kwargs))

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._pool.shutdown(wait=True)
