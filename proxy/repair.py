"""Gets damaged blobs again that images on this node need, from the swarm or from where their manifests were read."""

from __future__ import annotations

import asyncio
from typing import Protocol, Self

import structlog

from peer.errors import DownloadFailed
from peer.inventory import Lost
from peer.origin import OriginError
from shoal.descriptor import Descriptor
from shoal.digest import Digest
from shoal.reference import Location

log = structlog.get_logger()

_AT_A_TIME = 4
"""Clients go first."""


class Library(Protocol):
    """The blobs of this node (`peer.supply` implements it)."""

    async def is_needed(self, digest: Digest) -> bool:
        """Whether a manifest or a pin needs a blob."""

    async def restore(self, blob: Descriptor, location: Location) -> bool:
        """Get a blob that is to be in the store; whether it is there at the end."""


class Places(Protocol):
    """Where blobs were named (`proxy.catalogue` implements it)."""

    async def places(self, digest: Digest) -> list[tuple[Location, int]]:
        """Repositories of which a manifest names a blob, and its size there in bytes."""


class Repair:
    """Owns what is being mended, as an async context manager: what is not at its end when it is left stays damaged."""

    def __init__(self, library: Library, places: Places) -> None:
        self._library = library
        self._places = places
        self._turns = asyncio.Semaphore(_AT_A_TIME)
        self._tasks: dict[Digest, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def begin(self, lost: Lost) -> None:
        """A blob's file is wrong or gone."""
        if lost.digest not in self._tasks:
            task = self._tasks[lost.digest] = asyncio.create_task(self._mend(lost))
            task.add_done_callback(lambda _: self._tasks.pop(lost.digest))

    async def settled(self) -> None:
        """Wait until nothing is being mended."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def _mend(self, lost: Lost) -> None:
        async with self._turns:
            try:
                if not await self._library.is_needed(lost.digest):
                    log.info("blob.not_mended", digest=lost.digest, reason="no manifest needs it")
                    return
                for location, size in await self._places.places(lost.digest):
                    if await self._restored(Descriptor(lost.digest, size, kind=lost.kind), location):
                        log.info("blob.mended", digest=lost.digest, location=str(location))
                        return
                log.warning("blob.not_mended", digest=lost.digest, reason="no place that is known gives it")
            except Exception:  # where the task ends
                log.exception("blob.not_mended", digest=lost.digest)

    async def _restored(self, blob: Descriptor, location: Location) -> bool:
        try:
            return await self._library.restore(blob, location)
        except (DownloadFailed, OriginError) as error:
            log.info("blob.not_given", digest=blob.digest, location=str(location), error=str(error))
            return False
