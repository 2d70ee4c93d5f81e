"""The exchange of one peer, with a neighbour that is a bare connection."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast

from prometheus_client import CollectorRegistry

from peer import wire
from peer.connection import Connection
from peer.download import Download
from peer.exchange import PieceExchange
from peer.metrics import PeerMetrics
from peer.serving import Offer
from shoal.descriptor import Descriptor
from shoal.digest import Digest
from shoal.pieces import MIB, PieceLayout
from supernode.protocol import PeerId

ME, OTHER = PeerId("1" * 32), PeerId("2" * 32)
LAYERS = [Digest.of(b"%d" % place) for place in range(41)]


class Shelf:
    """Has every blob."""

    def offer(self, digest: Digest) -> Offer | None:
        layout = PieceLayout.of(MIB)
        return Offer(layout, layout.all)

    def open_file(self, digest: Digest) -> int:
        raise FileNotFoundError(digest)


class Heard:
    """Keeps what comes."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[wire.Event] = asyncio.Queue()

    def accept(self, connection: Connection, piece: wire.Piece) -> bytearray | None:
        return None

    def received(self, connection: Connection, event: wire.Event) -> None:
        self.events.put_nowait(event)

    def closed(self, connection: Connection, reason: str) -> None: ...


@asynccontextmanager
async def met() -> AsyncIterator[tuple[PieceExchange, Heard]]:
    """An exchange, and what a neighbour hears of it."""
    exchange = PieceExchange(
        Shelf(), PeerMetrics(CollectorRegistry()), ME, "127.0.0.1", 0, slots=6, rng=random.Random(1)
    )
    heard = Heard()
    async with exchange.neighbours, asyncio.timeout(10):
        connection = Connection(socket.create_connection(("127.0.0.1", exchange.neighbours.port)), heard)
        connection.send(wire.Hello(wire.VERSION, OTHER))
        assert isinstance(await heard.events.get(), wire.Hello)
        yield exchange, heard
        connection.close("over")


async def test_the_handouts_of_an_image_are_told_to_a_neighbour_in_one_message() -> None:
    async with met() as (exchange, heard):
        for digest in LAYERS:
            exchange.meet(digest, [(OTHER, "127.0.0.1", 1)])
        joined = await heard.events.get()
    assert isinstance(joined, wire.Join)
    assert [blob.digest for blob in joined.blobs] == LAYERS


async def test_a_blob_that_begins_again_is_shared_with_the_same_neighbours() -> None:
    layout = PieceLayout.of(MIB)
    blob = SimpleNamespace(blob=Descriptor(LAYERS[0], MIB), layout=layout, missing=layout.all, readers={})
    download = cast("Download", blob)
    async with met() as (exchange, heard):
        exchange.open(download)
        exchange.meet(LAYERS[0], [(OTHER, "127.0.0.1", 1)])
        assert isinstance(await heard.events.get(), wire.Join)
        exchange.restart(download)
        assert await heard.events.get() == wire.Part([LAYERS[0]])
        assert isinstance(await heard.events.get(), wire.Join)
