"""The tasks of a peer that nobody waits for where they begin: kept until their end, and what ends them is logged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger()

T = TypeVar("T")


class Tasks:
    """The owner of what runs beside the event loop's callbacks."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def own(self, coroutine: Coroutine[None, None, T]) -> asyncio.Task[T]:
        """Run a task to its end."""
        task = asyncio.create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    @contextlib.asynccontextmanager
    async def running(self, coroutine: Coroutine[None, None, None]) -> AsyncIterator[None]:
        """A task that goes on until the context ends."""
        task = self.own(coroutine)
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def settle(self) -> None:
        """Wait for the end of all that run."""
        await asyncio.gather(*self._running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("engine.task_failed", exc_info=task.exception())
