"""Who looks at the cluster, and what each is shown: one picture, or one after the other as long as it is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from shoal.recent import Recent
from supernode.telemetry import Telemetry
from supernode.watching import Subject

_MAX_FOLLOWERS = 32
"""Who are shown one picture after the other at a time. Half of the port's connections are left to others."""
_MAX_PICTURES = 128
_MOST_SECONDS = 2.0
"""Between two pictures. With so many nodes that each reports less often, some report in that time."""
_NEWS_SECONDS = 1.5
"""How long a first look waits for what nodes have not told before."""

T = TypeVar("T")


class Crowded(Exception):
    """There are as many onlookers as there may be; the text is for people."""


@dataclass(frozen=True, slots=True)
class Topic:
    """What can be followed."""

    name: str
    """Topics of one name are the same."""
    subject: Callable[[], Subject]
    take: Callable[[], bytes]
    """Makes the picture, as it is sent."""


class Onlookers:
    """Nodes report often as long as anybody looks, and hardly ever else (`supernode.watching`)."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._followers = 0
        self._pictures: Recent[str, tuple[float, bytes]] = Recent(_MAX_PICTURES)

    async def glance(self, subject: Subject, take: Callable[[], T], is_known: Callable[[], bool]) -> T:
        """One picture, made by `take`. Where `is_known` says that nodes have not told yet what it shows, they are
        waited for a short while. Raises what `take` does."""
        self._telemetry.look(subject)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_NEWS_SECONDS):
                while not is_known():
                    await self._telemetry.next_report()
        return take()

    async def follow(self, topics: Sequence[Topic]) -> AsyncGenerator[list[bytes], None]:
        """The pictures of these topics at once, and again each time that nodes report. A picture is made once for all
        who follow its topic, and none where nobody does. Raises `Crowded`, and what topics raise."""
        if self._followers >= _MAX_FOLLOWERS:
            raise Crowded(f"{_MAX_FOLLOWERS} pages follow this supernode already: close some")
        self._followers += 1
        try:
            while True:
                for topic in topics:
                    self._telemetry.look(topic.subject())
                yield [self._picture(topic) for topic in topics]
                await asyncio.sleep(self._pace)
        finally:
            self._followers -= 1
            if not self._followers:
                self._pictures.clear()

    @property
    def _pace(self) -> float:
        """Seconds between two pictures."""
        return min(self._telemetry.interval, _MOST_SECONDS)

    def _picture(self, topic: Topic) -> bytes:
        now = time.monotonic()
        made_at, picture = self._pictures.get(topic.name, (float("-inf"), b""))
        if now - made_at >= self._pace / 2:
            made_at, picture = self._pictures.put(topic.name, (now, topic.take()))
        return picture
