"""Pieces in traces: some of the requests for pieces of a blob are spans, at who asks and at who serves.

A blob has thousands of pieces. The first ones tell how long neighbours take; of all of them the blob's own span has
sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from peer import wire
from peer.blob import BlobInProgress
from peer.commands import Land
from peer.uploads import Upload
from shoal.descriptor import BlobKey
from shoal.messages import key_of
from shoal.recent import Recent
from shoal.traces import Span, Traces
from supernode.protocol import PeerId

MAX_PIECES = 32
"""Requests of one blob that are spans."""
_MAX_WAITING = 256
"""Requests of neighbours that belong to a trace and wait to be served."""


class PieceSpans:
    """The spans of pieces that are underway. Belongs to the event loop."""

    def __init__(self, traces: Traces, blobs: Mapping[BlobKey, BlobInProgress]) -> None:
        """`blobs`: those on their way."""
        self._traces = traces
        self._blobs = blobs
        self._heard: Recent[Upload, bytes] = Recent(_MAX_WAITING)

    def sending(self, peers: Sequence[PeerId], message: wire.Kinds) -> wire.Kinds:
        """A message to neighbours, as it is to be sent."""
        if isinstance(message, wire.Request):
            return self._asked(peers[0], message)
        if self._heard and isinstance(message, wire.Busy | wire.Absent):
            self._heard.pop(Upload(peers[0], key_of(message), message.piece), None)
        return message

    def came(self, landing: Land) -> None:
        """A piece is here, from a neighbour or an origin."""
        blob = self._blobs.get(landing.blob)
        span = blob.asked.pop(landing.piece, None) if blob is not None else None
        if span is not None:
            span.set({"shoal.size": len(landing.content), "shoal.source": _source(landing)})
            span.end()

    def heard(self, peer: PeerId, message: wire.Request) -> None:
        """A neighbour asks for a piece, within a trace."""
        if self._traces.is_on and message.trace:
            self._heard.put(Upload(peer, key_of(message), message.piece), message.trace)

    def serving(self, upload: Upload) -> Span:
        """A piece is sent, which ends with the span."""
        carried = self._heard.pop(upload, b"")
        return self._traces.joined(carried, "piece.serve", {"shoal.piece": upload.piece, "shoal.peer": upload.peer})

    def _asked(self, peer: PeerId, message: wire.Request) -> wire.Request:
        blob = self._blobs.get(key_of(message))
        if blob is None or not blob.span.is_recorded or blob.asked_for >= MAX_PIECES:
            return message
        blob.asked_for += 1
        span = self._traces.begin("piece.request", {"shoal.piece": message.piece, "shoal.peer": peer}, blob.span)
        before = blob.asked.pop(message.piece, None)
        if before is not None:
            before.failed("it was asked of another peer")
            before.end()
        blob.asked[message.piece] = span
        return msgspec.structs.replace(message, trace=span.carried)


def _source(landing: Land) -> str:
    return "origin" if isinstance(landing.source, int) else landing.source
