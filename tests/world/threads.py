"""Servers of the tests' own, each in a thread with an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack


def serve(start: Callable[[AsyncExitStack], Awaitable[None]], stack: ExitStack) -> None:
    """Run what `start` starts until `stack` ends; returns when it has started. What is to end with it goes onto the
    stack that `start` is given."""
    started, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def run() -> None:
        async with AsyncExitStack() as inner:
            await start(inner)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()

    def end() -> None:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()

    stack.callback(end)
    assert started.wait(10), "the server starts"
