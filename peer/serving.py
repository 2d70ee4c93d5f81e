"""The uploads of a peer: which requests are served now, and how fast."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from typing import Protocol

from peer import wire
from peer.connection import Span
from peer.metrics import PeerMetrics
from peer.neighbours import Neighbour, Neighbours
from peer.pace import UploadPace
from peer.uploads import Upload, UploadSlots
from shoal.digest import Digest
from shoal.pieces import PieceLayout, PieceSet
from supernode.protocol import PeerId


@dataclass(frozen=True, slots=True)
class Offer:
    """A blob of which this peer has pieces."""

    layout: PieceLayout
    have: PieceSet


class Library(Protocol):
    """What this peer can serve, complete or underway."""

    def offer(self, digest: Digest) -> Offer | None:
        """What there is of a blob."""

    def open_file(self, digest: Digest) -> int:
        """A new file descriptor of its data; raises `OSError`."""


class Serving:
    """Answers requests from the library, through the upload slots and at the pace of the link."""

    def __init__(
        self, library: Library, metrics: PeerMetrics, neighbours: Neighbours, slots: int, rng: random.Random
    ) -> None:
        self._library = library
        self._metrics = metrics
        self._neighbours = neighbours
        self._uploads = UploadSlots(rng, slots)
        self._pace = UploadPace(slots)
        self.slots = slots
        metrics.upload_limit.set_function(lambda: self._pace.limit)

    @property
    def idle(self) -> bool:
        """Whether nothing is being sent to neighbours."""
        return self._uploads.serving == 0

    def tick(self, now: float) -> None:
        """Measure the link. Call some times a second."""
        traffic = [neighbour.connection.traffic() for neighbour in self._neighbours.all.values()]
        self._pace.sample(sum(out for out, _ in traffic), sum(into for _, into in traffic), self._uploads.serving, now)

    def request(self, neighbour: Neighbour, upload: Upload) -> None:
        """A neighbour asks for a piece: serve it, let it wait, or send the asker elsewhere."""
        offer = self._library.offer(upload.digest)
        if offer is None or not offer.have >> upload.piece & 1:
            self._metrics.requests.labels("absent").inc()
            neighbour.connection.send(wire.Absent(upload.digest, upload.piece))
            return
        now_or_later = self._uploads.request(upload)
        if now_or_later:
            self._serve(upload)
        elif now_or_later is False:
            self._metrics.requests.labels("busy").inc()
            neighbour.connection.send(wire.Busy(upload.digest, upload.piece))

    def cancel(self, upload: Upload) -> None:
        """The asker does not want it any more."""
        self._uploads.cancel(upload)

    def drop(self, peer: PeerId) -> None:
        """A neighbour is gone."""
        started, invited = self._uploads.drop(peer)
        for upload in started:
            self._serve(upload)
        for other in invited:
            self._invite(other)

    def _serve(self, upload: Upload) -> None:
        neighbour = self._neighbours.all.get(upload.peer)
        offer = self._library.offer(upload.digest)
        if neighbour is None:
            self._served(upload)
            return
        try:
            if offer is None or not offer.have >> upload.piece & 1:
                raise FileNotFoundError(upload.digest)
            fd = self._library.open_file(upload.digest)
        except OSError:
            neighbour.connection.send(wire.Absent(upload.digest, upload.piece))
            self._served(upload)
            return
        span = offer.layout.span(upload.piece)
        message = wire.Piece(upload.digest, upload.piece, span.length)

        def release(sent: bool) -> None:
            os.close(fd)
            if sent:
                self._metrics.requests.labels("served").inc()
                self._metrics.bytes.labels("peer", "out").inc(span.length)
            self._served(upload)

        rate = self._pace.best / self.slots
        neighbour.connection.send_piece(Span(message, fd, span.start, release, rate, self._book))

    def _book(self, size: int) -> float:
        return self._pace.book(size, time.monotonic())

    def _served(self, upload: Upload) -> None:
        following, invited = self._uploads.finished(upload)
        if following is not None:
            self._serve(following)
        if invited is not None:
            self._invite(invited)

    def _invite(self, peer: PeerId) -> None:
        neighbour = self._neighbours.all.get(peer)
        if neighbour is not None:
            neighbour.connection.send(wire.Ready())
