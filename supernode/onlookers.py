"""Who looks at the cluster, and what each is shown: one picture, or one after the other as long as it is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar, cast

from shoal.recent import Recent
from supernode.telemetry import Telemetry
from supernode.watching import LINGER_SECONDS, Subject

_MAX_FOLLOWERS = 64
"""Who are shown one picture after the other at a time: each costs the making of pictures."""
_NEWS_SECONDS = 1.5
"""How long a first look waits for what nodes have not told before."""

T = TypeVar("T")


class Crowded(Exception):
    """There are as many onlookers as there may be; the text is for people."""


class Onlookers:
    """Nodes report often as long as anybody looks, and hardly ever else (`supernode.watching`)."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._followers = 0
        self._pictures: Recent[tuple[str, Subject], tuple[float, Any]] = Recent(_MAX_FOLLOWERS)

    async def glance(self, subject: Subject, take: Callable[[], T], is_known: Callable[[], bool]) -> T:
        """One picture, made by `take`. Where `is_known` says that nodes have not told yet what it shows, they are
        waited for a short while. Raises what `take` does."""
        self._telemetry.look(subject)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_NEWS_SECONDS):
                while not is_known():
                    await self._telemetry.next_report()
        return take()

    async def follow(self, name: str, subject: Subject, take: Callable[[], T]) -> AsyncGenerator[T, None]:
        """A picture at once, and one for each time that nodes report. Those who follow the same `name` and subject are
        shown the same pictures. Raises `Crowded`, and what `take` does."""
        if self._followers >= _MAX_FOLLOWERS:
            raise Crowded(f"{_MAX_FOLLOWERS} onlookers follow this supernode already")
        self._followers += 1
        try:
            while True:
                self._telemetry.look(subject)
                yield self._picture(name, subject, take)
                await asyncio.sleep(min(self._telemetry.interval, LINGER_SECONDS / 2))
        finally:
            self._followers -= 1
            if not self._followers:
                self._pictures.clear()

    def _picture(self, name: str, subject: Subject, take: Callable[[], T]) -> T:
        now = time.monotonic()
        made_at, picture = self._pictures.get((name, subject), (float("-inf"), None))
        if now - made_at < self._telemetry.interval / 2:
            return cast("T", picture)
        taken = take()
        self._pictures.put((name, subject), (now, taken))
        return taken
