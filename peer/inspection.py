"""Hashes the files of a store again: what is right is served, the rest goes to quarantine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from peer.disk import Stamp, open_for_reading
from peer.imagelayout import ImageLayout
from peer.inventory import Inventory, Verified
from peer.quarantine import Quarantine
from shoal.digest import Digest

log = structlog.get_logger()

_CHUNK = 1 << 20

Pace = Callable[[int], None]
"""Called with the number of bytes after each that were read; may raise to give up."""


class Inspection:
    """Takes as long as reading the files does. Raises `StoreError` where a wrong one cannot be moved."""

    def __init__(self, layout: ImageLayout, inventory: Inventory, quarantine: Quarantine) -> None:
        self._layout = layout
        self._inventory = inventory
        self._quarantine = quarantine

    def recheck(self) -> Iterator[tuple[Digest, bool]]:
        """Hash what is unverified, small files first."""
        waiting = self._inventory.unverified()
        return (
            (digest, right)
            for digest in sorted(waiting, key=waiting.__getitem__)
            if (right := self._check(digest, None, _at_full_speed)) is not None
        )

    def verify(self) -> Iterator[tuple[Digest, bool]]:
        """Hash every verified blob; one that cannot be read counts as wrong. True: it is right."""
        return (
            (digest, right)
            for digest in self._inventory.sizes()
            if (right := self.check(digest, _at_full_speed)) is not None
        )

    def check(self, digest: Digest, pace: Pace) -> bool | None:
        """Hash one verified blob; None where it is not there any more."""
        known = self._inventory.verified(digest)
        return None if known is None else self._check(digest, known, pace)

    def _check(self, digest: Digest, known: Verified | None, pace: Pace) -> bool | None:
        """None where the file is not, or no more at the end, the one that `known` tells of."""
        if not self._inventory.is_still(digest, known):
            return None
        try:
            stamp = _stamp_if_right(self._layout.path(digest), digest, pace)
        except OSError as error:
            log.error("blob.unreadable", digest=digest, error=str(error))
            stamp = None
        if stamp is None:
            return False if self._quarantine.take(digest, known, "its content is wrong") else None
        if not self._inventory.is_still(digest, known):
            return None
        if known is not None and stamp == known.stamp:
            self._inventory.checked(digest, known)
        else:
            self._inventory.admit(digest, stamp)
        return True


def _stamp_if_right(path: Path, digest: Digest, pace: Pace) -> Stamp | None:
    """What tells the file, where its content has this digest and did not change while it was hashed."""
    with open(path, "rb", buffering=0, opener=lambda _, flags: open_for_reading(path)) as file:
        stamp = Stamp.of(os.fstat(file.fileno()))
        hasher, chunk = digest.hasher(), bytearray(_CHUNK)
        while count := file.readinto(chunk):
            hasher.update(memoryview(chunk)[:count])
            pace(count)
        return stamp if digest.matches(hasher) and stamp.fits(os.fstat(file.fileno())) else None


def _at_full_speed(_: int) -> None:
    """Nobody needs the disk more."""
