"""Uploads: what becomes of a piece that could not be sent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from peer.connection import Span
from peer.metrics import LimitMetrics, PeerMetrics
from peer.neighbours import Neighbours
from peer.piecespans import PieceSpans
from peer.serving import Serving
from peer.tally import Tally
from peer.tasks import Tasks
from peer.throttle import Throttle
from peer.uploads import Upload
from peer.workers import Workers
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.traces import NO_TRACES
from supernode.protocol import PeerId

CONTENT = b"a piece of a blob"
KEY = BlobKey(Digest.of(CONTENT), len(CONTENT))


class Neighbourhood:
    """Keeps what it is to send."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def send_piece(self, peer: PeerId, span: Span) -> None:
        self.spans.append(span)


@pytest.mark.parametrize(("length", "unreadable"), [(len(CONTENT), []), (5, [KEY.digest])])
async def test_a_file_that_does_not_give_a_piece_is_told_of(
    workers: Workers, tmp_path: Path, length: int, unreadable: list[Digest]
) -> None:
    """And a neighbour that went away is not taken for that."""
    file, neighbours, tasks, tally = tmp_path / "blob", Neighbourhood(), Tasks(), Tally()
    file.write_bytes(CONTENT[:length])
    ended: list[Upload] = []
    found: list[Digest] = []
    serving = Serving(
        cast("Neighbours", neighbours),
        PeerMetrics(CollectorRegistry(), tally),
        tally,
        6,
        lambda _: os.open(file, os.O_RDONLY),
        ended.append,
        lambda digest, _: found.append(digest),
        workers,
        tasks,
        Throttle(LimitMetrics(CollectorRegistry())).upload,
        PieceSpans(NO_TRACES, {}),
    )
    upload = Upload(PeerId("0" * 32), KEY, 0)
    assert serving.serve(upload)
    neighbours.spans[0].release(False)
    assert ended == [upload]
    await tasks.settle()
    assert found == unreadable
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(neighbours.spans[0].fd)
