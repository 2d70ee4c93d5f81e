"""How a daemon runs: until it is told to stop, then as long as its transfers may take."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import structlog
import uvloop

log = structlog.get_logger()

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(open_daemon: Callable[[], AbstractAsyncContextManager[object]]) -> None:
    """Keep the daemon until SIGTERM or SIGINT; a second signal ends the process as it would any other.

    `open_daemon` is called inside the event loop.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(open_daemon))


async def _run(open_daemon: Callable[[], AbstractAsyncContextManager[object]]) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()

    def stop(number: signal.Signals) -> None:
        for each in _STOP_SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        log.info("daemon.stopping", signal=number.name)
        told.set()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop, number)
    async with open_daemon():
        log.info("daemon.ready")
        await told.wait()
    log.info("daemon.stopped")
