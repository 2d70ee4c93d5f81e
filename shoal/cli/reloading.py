"""A running daemon reads its configuration again: at SIGHUP, or when its operator says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from click import ClickException

from shoal.changes import OrderRefused
from shoal.cli.configuration import Configuration
from shoal.cli.failures import failures
from shoal.logs import set_up
from shoal.revision import revise
from shoal.settings import SettingsError

log = structlog.get_logger()

TakeOver = Callable[[], None]
Prepare = Callable[[Configuration], Awaitable[TakeOver]]
"""Reads what another configuration names; it holds when what is returned is called. What `failures` knows may be raised
before, and then nothing has changed."""


class Reloading:
    """The configuration that a daemon runs by, and who has to know when another one does."""

    def __init__(self, running: Configuration, read: Callable[[], Configuration]) -> None:
        """`read` reads the same sources as at the start; it raises `ClickException`."""
        self._running = running
        self._read = read
        self._parts: list[Prepare] = []
        self._turn = asyncio.Lock()

    def tell(self, part: Prepare) -> None:
        """A part of the daemon that runs by the configuration."""
        self._parts.append(part)

    async def reload(self) -> Mapping[str, object]:
        """Read the configuration again, and take over what is live of it: all of that, or nothing.

        Returns the keys that have changed, by whether they hold now. Raises `OrderRefused` where it cannot be used.
        """
        async with self._turn:
            try:
                with failures():
                    read = await asyncio.to_thread(self._read)
                    revision = revise(self._running, read)
                    prepared = [await prepare(revision.settings) for prepare in self._parts]
            except (ClickException, SettingsError) as error:
                text = error.format_message() if isinstance(error, ClickException) else str(error)
                log.error("configuration.not_reloaded", error=text, kept="what was read before")
                raise OrderRefused(text) from None
            for take_over in prepared:
                take_over()
            if self._running.log != revision.settings.log:
                set_up(revision.settings.log)
            self._running = revision.settings
        outcome = {"applied": revision.applied, "needs_restart": revision.needs_restart}
        log.info("configuration.reloaded", **{key: ", ".join(keys) or "nothing" for key, keys in outcome.items()})
        return outcome

    async def on_signal(self) -> None:
        """As `reload`, for who reads the log."""
        try:
            await self.reload()
        except OrderRefused:
            return
        except Exception:  # a fault of ours: the daemon goes on by what it had, and the next signal is heard too
            log.exception("configuration.reload_failed")
