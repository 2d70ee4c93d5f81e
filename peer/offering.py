"""Offers what containerd holds on this node to the swarm: looked for now and then, hashed before it is offered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from peer.contentstore import ContentStore, Unchecked
from peer.disk import StoreError
from peer.workers import Workers
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.pieces import MIB

log = structlog.get_logger()

_LOOK_SECONDS = 3.0
"""Between two looks at the folders."""
_STEP = 4 * MIB
_RATE = 50 * MIB
"""Bytes/s that are hashed at most: a tenth of a core, and half of a slow disk."""


class Offering:
    """`offered` and `withdrawn` are told of each blob that comes to be there and that goes."""

    def __init__(
        self,
        content: ContentStore,
        workers: Workers,
        offered: Callable[[BlobKey], None],
        withdrawn: Callable[[BlobKey], None],
    ) -> None:
        self._content = content
        self._workers = workers
        self._offered = offered
        self._withdrawn = withdrawn

    async def run(self) -> None:
        """Look after the folders until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # a fault of ours: what is there is to be offered all the same, later
                log.exception("offering.failed")
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Withdraw what is there no more, then hash what is new, one file after the other."""
        changes = await self._workers.run_long(self._content.look)
        for key in changes.gone:
            log.info("content.withdrawn", digest=key.digest)
            self._withdrawn(key)
        for digest in changes.new:
            try:
                await self._check(digest)
            except (OSError, StoreError) as error:
                log.info("content.not_checked", digest=digest, error=str(error))

    async def _check(self, digest: Digest) -> None:
        file = await self._workers.run_long(lambda: self._content.unchecked(digest))
        try:
            await self._hash(file)
            key = self._content.checked(file)
        finally:
            file.close()
        if key is not None:
            log.info("content.offered", digest=digest, bytes=key.size)
            self._offered(key)

    async def _hash(self, file: Unchecked) -> None:
        while True:
            began = time.monotonic()
            count = await self._workers.run_long(lambda: file.step(_STEP))
            if not count:
                return
            await asyncio.sleep(count / _RATE - (time.monotonic() - began))
