"""Carries out uploads: opens what is to be sent, and lets it go at the pace of the link."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from peer import wire
from peer.connection import Span
from peer.disk import StoreError, read_all
from peer.metrics import PeerMetrics
from peer.neighbours import Neighbours
from peer.pace import UploadPace
from peer.piecespans import PieceSpans
from peer.tally import Tally
from peer.tasks import Tasks
from peer.throttle import Gate, Turn
from peer.uploads import Upload
from peer.workers import Workers
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.pieces import PieceLayout
from shoal.ranges import ByteRange


class Serving:
    """The uploads that run.

    `open_file` gives a descriptor for the caller to close. `ended` is told of each once, and `unreadable` of blobs of
    which a file does not give a piece. What is sent passes `gate`.
    """

    def __init__(
        self,
        neighbours: Neighbours,
        metrics: PeerMetrics,
        tally: Tally,
        slots: int,
        open_file: Callable[[BlobKey], int],
        ended: Callable[[Upload], None],
        unreadable: Callable[[Digest, Exception], None],
        workers: Workers,
        tasks: Tasks,
        gate: Gate,
        spans: PieceSpans,
    ) -> None:
        self._neighbours = neighbours
        self._metrics = metrics
        self._tally = tally
        self._slots = slots
        self._open_file = open_file
        self._ended = ended
        self._unreadable = unreadable
        self._workers = workers
        self._tasks = tasks
        self._gate = gate
        self._spans = spans
        self._pace = UploadPace(slots)
        metrics.upload_pace.set_function(lambda: self._pace.limit)

    def serve(self, upload: Upload) -> bool:
        """Send a piece; False where it cannot be read."""
        try:
            fd = self._open_file(upload.blob)
        except (OSError, StoreError):
            return False
        span = PieceLayout.of(upload.blob.size).span(upload.piece)
        traced = self._spans.serving(upload)

        def release(sent: bool) -> None:
            traced.end()
            if sent:
                os.close(fd)
                self._tally.peers_out += span.length
                self._metrics.answers["served"] += 1
            else:
                self._tasks.own(self._read_back(upload.blob, fd, span))
            self._ended(upload)

        message = wire.Piece(*upload.blob, upload.piece, span.length)
        rates = [rate for rate in (self._pace.best, self._pace.cap) if rate]
        rate = min(rates, default=0.0) / self._slots
        self._neighbours.send_piece(upload.peer, Span(message, fd, span.start, release, rate, self._book))
        return True

    def resize(self, slots: int) -> None:
        """So many uploads at a time from now on."""
        self._slots = self._pace.slots = slots

    def limit(self, rate: float) -> None:
        """What may be sent at most, in bytes/s, is another rate from now on; 0: no limit."""
        self._pace.cap = rate

    def tick(self, serving: int, now: float) -> None:
        """Measure the link, with so many uploads in service. Call some times a second."""
        traffic = [connection.traffic() for connection in self._neighbours.all.values()]
        self._pace.sample(sum(out for out, _ in traffic), sum(into for _, into in traffic), serving, now)

    async def _read_back(self, blob: BlobKey, fd: int, span: ByteRange) -> None:
        """A piece was not sent: as a rule the neighbour is gone, else the file cannot be read."""
        try:
            await self._workers.run_long(lambda: read_all(fd, span.start, span.length))
        except OSError as error:
            self._unreadable(blob.digest, error)
        finally:
            os.close(fd)

    def _book(self, size: int, go: Callable[[], None]) -> Turn | None:
        now = time.monotonic()
        return self._gate.book(size, go, now + self._pace.book(size, now))
