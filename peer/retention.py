"""Keeps a store within its limits: decides by `peer.eviction` and `peer.watermarks`, and has the store remove files."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, get_args

import structlog

from peer.disk import failing_to
from peer.eviction import Reason, Stock, Victim, spoilt, unneeded, victims
from peer.settings import CacheSettings
from peer.watermarks import Usage, Watermarks
from shoal.units import parse_amount

log = structlog.get_logger()

_REST_SECONDS = 5.0
"""For which nothing is looked for again where what must stay fills the store."""


class Holder(Protocol):
    """What is on the store's disk (`peer.stockroom` implements it)."""

    def stock(self) -> Stock | None:
        """What is there and what must stay; None while that is not known."""

    def held(self) -> tuple[int, int]:
        """Bytes that are stored, with what open blobs will have; and bytes that these will still take of the disk."""

    def give_up(self, victim: Victim) -> int:
        """Remove a victim from the disk, unless something of it is in use by now; returns the bytes.

        Raises `StoreError`.
        """


class Retention:
    """One store's limits. Safe to use from several threads; what it does takes as long as the disk does."""

    def __init__(self, settings: CacheSettings, root: Path, holder: Holder, now: Callable[[], float]) -> None:
        """`now`: the store's clock, in seconds."""
        self._settings = settings
        self._root = root
        self._holder = holder
        self._now = now
        self._turn = threading.Lock()
        self._rest_until = 0.0
        self.evicted: dict[Reason, int] = dict.fromkeys(get_args(Reason), 0)
        """Bytes that were given up since the start."""

    def reconfigure(self, settings: CacheSettings) -> None:
        """These limits hold from now on."""
        self._settings = settings
        self._rest_until = 0.0

    def fits(self, size: int) -> bool:
        """Whether a blob of `size` bytes can be kept at all. Raises `StoreError`."""
        return self.look()[0].fit(size)

    def make_room(self, size: int) -> bool:
        """Whether `size` bytes more may be written, after what may go for them is gone. Raises `StoreError`."""
        with self._turn:
            marks, usage = self.look()
            if marks.have_room(usage, size):
                return True
            if not marks.fit(size):
                return False
            self._remove(self._victims(), marks.surplus(usage, size))
            marks, usage = self.look()
            return marks.have_room(usage, size)

    def hold(self) -> None:
        """Go down to the low watermark where the store is over its limits. Raises `StoreError`."""
        if time.monotonic() < self._rest_until or not self._turn.acquire(blocking=False):
            return  # somebody else is at it
        try:
            marks, usage = self.look()
            surplus = marks.surplus(usage, 0)
            if surplus and self._remove(self._victims(), surplus) < surplus:
                self._rest_until = time.monotonic() + _REST_SECONDS
        finally:
            self._turn.release()

    def sweep(self, *, dry_run: bool) -> list[Victim]:
        """Remove what was put aside and what no manifest needs, then more down to the low watermark.

        Returns what went, or would go. Raises `StoreError`.
        """
        with self._turn:
            stock = self._holder.stock()
            if stock is None:
                return []
            marks, usage = self.look()
            now = self._now()
            chosen = [*spoilt(stock), *unneeded(stock, now)]
            chosen += _up_to(
                (each for each in victims(stock, now) if each.reason in {"partial", "image"}),
                marks.above_low(usage.after(sum(victim.size for victim in chosen))),
            )
            return chosen if dry_run else [victim for victim in chosen if self._give_up(victim)]

    def look(self) -> tuple[Watermarks, Usage]:
        """The limits, and how much there is. Raises `StoreError`."""
        stored, lacking = self._holder.held()
        with failing_to(f"look at the disk of {self._root}"):
            disk = os.statvfs(self._root)
        total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        settings = self._settings
        high, low, least = (parse_amount(text, total) for text in (settings.high, settings.low, settings.free))
        return Watermarks(high, min(low, high), least, total), Usage(stored, lacking, free)

    def _victims(self) -> Iterable[Victim]:
        stock = self._holder.stock()
        return () if stock is None else victims(stock, self._now())

    def _remove(self, found: Iterable[Victim], wanted: int) -> int:
        """Remove of what was found until `wanted` bytes are gone; returns how many are."""
        freed = 0
        for victim in found:
            if freed >= wanted:
                break
            freed += self._give_up(victim)
        return freed

    def _give_up(self, victim: Victim) -> int:
        freed = self._holder.give_up(victim)
        if freed:
            self.evicted[victim.reason] += freed
            log.info("store.evicted", reason=victim.reason, digest=victim.root, blobs=len(victim.blobs), size=freed)
        return freed


def _up_to(found: Iterable[Victim], wanted: int) -> Iterator[Victim]:
    for victim in found:
        if wanted <= 0:
            return
        wanted -= victim.size
        yield victim
