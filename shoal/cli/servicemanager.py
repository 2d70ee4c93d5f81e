"""What a daemon tells the service manager that started it, in the words of systemd's sd_notify(3)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Self

import structlog

log = structlog.get_logger()

_MICROSECONDS = 1e6


class ServiceManager:
    """An async context manager: inside, the daemon is ready, and says again and again that its event loop turns.

    Does nothing where no service manager waits for word: the environment has no `NOTIFY_SOCKET` then.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._patience = _patience(environ)
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self._tell("READY=1")
            stack.callback(self._tell, "STOPPING=1")
            if self._patience:
                tasks = await stack.enter_async_context(asyncio.TaskGroup())
                stack.callback(tasks.create_task(self._live()).cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _live(self) -> None:
        while True:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._patience / 2)

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.setblocking(False)
                line.sendto(state.encode(), address)
        except OSError as error:
            log.warning("service_manager.not_told", state=state, error=str(error))


def _patience(environ: Mapping[str, str]) -> float:
    """Seconds of silence after which the service manager ends this process as hung; 0: it does not."""
    text = environ.get("WATCHDOG_USEC", "")
    is_meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(text) / _MICROSECONDS if is_meant and text.isascii() and text.isdigit() else 0.0
