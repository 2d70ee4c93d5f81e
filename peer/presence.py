"""Which finished blobs are here, as others have to know it: what comes is offered, and what goes is withdrawn."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

import structlog

from peer.contact import Contact
from peer.disk import StoreError
from peer.holdings import Holdings
from peer.inventory import Lost
from peer.runner import Runner
from peer.workers import Workers
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.pieces import PieceLayout, piece_digest, to_bitfield
from supernode import protocol

log = structlog.get_logger()


class Presence:
    """Of blobs that were downloaded just now the machine knows by itself; this tells of all others."""

    def __init__(self, holdings: Holdings, workers: Workers, contact: Contact, runner: Runner) -> None:
        self.damaged: Callable[[Lost], None] = _nobody
        """Told of each blob whose file turned out to be wrong or gone."""
        self._holdings = holdings
        self._workers = workers
        self._contact = contact
        self._runner = runner

    def offer(self, key: BlobKey) -> None:
        """A verified blob has come to be here that was not asked for."""
        self._contact.send(protocol.Announce([protocol.Held(*key)]))

    def withdraw(self, key: BlobKey) -> None:
        """A blob is gone from one of its places."""
        if key not in self._runner.machine.sought and not self._holdings.holds(key):
            self._runner.machine.forgotten(key)
            self._runner.carry_out_soon()

    def lost(self, lost: Sequence[Lost]) -> None:
        """Blobs are in the store no more: nobody is to ask for them, and what was damaged is somebody's to mend."""
        for blob in lost:
            if blob.size is not None:
                self.withdraw(BlobKey(blob.digest, blob.size))
            if blob.damaged:
                self.damaged(blob)

    def condemn(self, digest: Digest, error: Exception) -> None:
        """A blob cannot be read."""
        log.error("blob.unreadable", digest=digest, error=str(error))
        size = self._holdings.size(digest)
        with contextlib.suppress(StoreError):  # it is not served any more, even where its file cannot be moved
            self._holdings.condemn(digest, "it cannot be read")
        if size is not None and self._holdings.size(digest) is None:
            self._runner.machine.forgotten(BlobKey(digest, size))
            self._runner.carry_out_soon()

    async def tell_table(self, key: BlobKey) -> None:
        """Tell the supernode the piece digests of a blob."""
        layout = PieceLayout.of(key.size)
        try:
            stored = self._holdings.open_blob(key.digest)
            if stored is None:
                return
            with stored:
                digests = await self._workers.run_long(lambda: _digests_of(stored.fd, layout))
        except (StoreError, OSError) as error:
            self.condemn(key.digest, error)
            return
        finally:
            self._runner.carry_out_soon()
        self._contact.send(protocol.Table(*key, to_bitfield(layout.all, layout.count), digests))


def _digests_of(fd: int, layout: PieceLayout) -> bytes:
    def digest(index: int) -> bytes:
        span = layout.span(index)
        return piece_digest(os.pread(fd, span.length, span.start))

    return b"".join(digest(index) for index in range(layout.count))


def _nobody(_: Lost) -> None:
    """Who mends damaged blobs where nobody does."""
