"""How a daemon runs: until it is told to stop, then as long as its transfers may take."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import structlog
import uvloop

from peer.budget import raise_descriptor_limit
from peer.tasks import Tasks
from shoal.cli.servicemanager import ServiceManager

log = structlog.get_logger()

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's `mallopt` (malloc.h)."""
_SPARE_BYTES = 64 << 20
_LARGE_BYTES = 16 << 20


def run(open_daemon: Callable[[], AbstractAsyncContextManager[object]], hung_up: Callable[[], Awaitable[None]]) -> None:
    """Keep the daemon until SIGTERM or SIGINT; a second signal ends the process as it would any other.

    `open_daemon` is called inside the event loop. `hung_up` is called for each SIGHUP as soon as the daemon is ready,
    once for those that come while it is at it.
    """
    raise_descriptor_limit()
    _keep_freed_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(open_daemon, hung_up))


def _keep_freed_memory() -> None:
    """Let memory of pieces be used again instead of going back to the kernel each time: new pages cost a fourth of
    what receiving costs. Does nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_TRIM_THRESHOLD, _SPARE_BYTES)


async def _run(
    open_daemon: Callable[[], AbstractAsyncContextManager[object]], hung_up: Callable[[], Awaitable[None]]
) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()

    def stop(number: signal.Signals) -> None:
        for each in _STOP_SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        log.info("daemon.stopping", signal=number.name)
        told.set()

    has_hung_up = asyncio.Event()

    async def answer_hang_ups() -> None:
        while True:
            await has_hung_up.wait()
            has_hung_up.clear()
            await hung_up()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, has_hung_up.set)
    async with open_daemon(), Tasks().running(answer_hang_ups()):
        gc.freeze()  # what is here now stays: full collections need not look at it again and again
        log.info("daemon.ready")
        async with ServiceManager(os.environ):
            await told.wait()
    log.info("daemon.stopped")
