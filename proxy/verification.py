"""Hashes a running node's whole store when the operator wants it, and has mended what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol, Self

import structlog

from proxy.repair import Repair
from shoal.digest import Digest

log = structlog.get_logger()


class Library(Protocol):
    """The blobs of this node (`peer.supply` implements it)."""

    def in_store(self) -> list[tuple[Digest, int]]:
        """All blobs of the store with their sizes in bytes."""

    def stored(self, digest: Digest) -> int | None:
        """Bytes of a blob that is here."""

    def verify(self) -> AsyncIterator[tuple[Digest, bool]]:
        """Hash all of them; those that are wrong go to quarantine."""


class Verification:
    """One run at a time, owned as an async context manager."""

    def __init__(self, library: Library, repair: Repair) -> None:
        self._library = library
        self._repair = repair
        self._sizes: dict[Digest, int] = {}
        self._checked: set[Digest] = set()
        self._wrong: list[Digest] = []
        self._error = ""
        self._run: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._run is not None:
            self._run.cancel()
            await asyncio.gather(self._run, return_exceptions=True)

    async def begin(self) -> dict[str, object]:
        """Start a run, unless one is underway; returns `progress`."""
        if self._run is None or self._run.done():
            self._sizes = dict(self._library.in_store())
            self._checked, self._wrong, self._error = set(), [], ""
            self._run = asyncio.create_task(self._verify())
        return self.progress()

    def progress(self) -> dict[str, object]:
        """How far the last run is: blobs and bytes, what is wrong, and what of that has come back."""
        return {
            "running": self._run is not None and not self._run.done(),
            "blobs": len(self._sizes),
            "checked": len(self._checked),
            "bytes": sum(self._sizes.values()),
            "checked_bytes": sum(self._sizes.get(digest, 0) for digest in self._checked),
            "wrong": self._wrong,
            "mended": [digest for digest in self._wrong if self._library.stored(digest) is not None],
            "error": self._error,
        }

    async def _verify(self) -> None:
        try:
            async for digest, right in self._library.verify():
                self._checked.add(digest)
                if not right:
                    self._wrong.append(digest)
            await self._repair.settled()
        except Exception as error:  # where the task ends
            log.exception("store.not_verified")
            self._error = str(error)
        log.info("store.verified", blobs=len(self._checked), wrong=len(self._wrong))
