"""A peer of the tests' own that claims what it has not and answers what it should not, which no Shoal does."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from enum import Enum

import aiohttp

from bench.daemons import free_ports
from peer import wire
from shoal.digest import Digest
from shoal.pieces import PieceLayout, piece_digest, to_bitfield
from supernode import protocol
from tests.world.threads import serve

_ANNOUNCE_SECONDS = 1.0


class Says(Enum):
    """What a request for a piece is answered with."""

    NOTHING = "nothing"
    BUSY = "busy"
    ABSENT = "absent"
    WRONG_BYTES = "wrong bytes"
    WRONG_LENGTH = "a length that is not the piece's"
    WRONG_INDEX = "another piece"
    NO_PIECE_OF_THE_BLOB = "an index behind the blob's end"


@dataclass
class Liar:
    """Announces that it has `content`."""

    content: bytes
    says: Says
    tells_digests: bool = True
    """Whether it tells the right digests of pieces to a supernode that asks, without which nobody asks it for any."""
    leases_at: tuple[str, str] | None = None
    """Registry and repository of which it takes leases over the blob, to report other pieces than those that are there;
    None: it takes none, and claims the whole blob."""
    asked: int = 0
    """Requests so far."""
    leased: int = 0
    """Pieces that it has reported falsely."""

    def __post_init__(self) -> None:
        self._blob = Digest.of(self.content), len(self.content)
        self._id = secrets.token_hex(16)

    def start(self, supernode_port: int, stack: ExitStack) -> None:
        """Claim the blob until `stack` ends; returns when the supernode knows."""
        (port,) = free_ports(1)
        known = threading.Event()

        async def start(inner: AsyncExitStack) -> None:
            inner.push_async_callback(self._end)
            server = await asyncio.start_server(self._greet, "127.0.0.1", port)
            inner.callback(server.close)
            inner.callback(asyncio.create_task(self._announce(supernode_port, port, known)).cancel)

        serve(start, stack)
        assert known.wait(10), "the supernode takes the liar's word"

    @staticmethod
    async def _end() -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _announce(self, supernode_port: int, port: int, known: threading.Event) -> None:
        url = f"http://127.0.0.1:{supernode_port}{protocol.PATH}"
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
            hello = protocol.Hello(protocol.VERSION, self._id, port, host="127.0.0.1")
            await socket.send_bytes(protocol.from_peer.encode(hello))
            assert isinstance(protocol.from_supernode.decode(await socket.receive_bytes()), protocol.Welcome)
            held = protocol.Announce([protocol.Held(*self._blob)] if self.leases_at is None else [])
            if self.leases_at is not None:
                await socket.send_bytes(
                    protocol.from_peer.encode(protocol.Open([protocol.Wanted(*self._blob, *self.leases_at)]))
                )
            reading = asyncio.create_task(self._heed(socket))
            while not reading.done():
                await socket.send_bytes(protocol.from_peer.encode(held))
                known.set()
                await asyncio.sleep(_ANNOUNCE_SECONDS)

    async def _heed(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for frame in socket:
            message = protocol.from_supernode.decode(frame.data)
            if isinstance(message, protocol.NeedTable) and self.tells_digests:
                await socket.send_bytes(protocol.from_peer.encode(self._table()))
            elif isinstance(message, protocol.Grant):
                self.leased += message.count
                pieces = range(message.first, message.first + message.count)
                digests = b"".join(piece_digest(self._piece(index)) for index in pieces)
                progress = protocol.Progress(message.lease, message.first, digests)
                await socket.send_bytes(protocol.from_peer.encode(progress))

    def _table(self) -> protocol.Table:
        layout = self._layout
        spans = [layout.span(index) for index in range(layout.count)]
        digests = b"".join(piece_digest(self.content[span.start : span.end]) for span in spans)
        return protocol.Table(*self._blob, to_bitfield(layout.all, layout.count), digests)

    @property
    def _layout(self) -> PieceLayout:
        return PieceLayout.of(len(self.content))

    def _piece(self, index: int) -> bytes:
        """What it gives for a piece: as long as that, of other bytes."""
        span = self._layout.span(index)
        return bytes(byte ^ 0xFF for byte in self.content[span.start : span.end])

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A neighbour that has connected: claim all, give nothing."""
        decoder = wire.Decoder(lambda _: None)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(1 << 10):
                for event in self._decoded(decoder, data) if not writer.is_closing() else ():
                    self._answer(event, decoder, writer)
        writer.close()

    @staticmethod
    def _decoded(decoder: wire.Decoder, data: bytes) -> list[wire.Event]:
        events: list[wire.Event] = []
        rest = memoryview(data)
        while rest:
            buffer = decoder.buffer()
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
            rest = rest[count:]
            events += decoder.received(count)
            while more := decoder.received(0):
                events += more
        return events

    def _answer(self, event: wire.Event, decoder: wire.Decoder, writer: asyncio.StreamWriter) -> None:
        if isinstance(event, wire.Hello):
            decoder.greeted()
            writer.write(wire.frame(wire.Hello(wire.VERSION, self._id)))
            writer.write(wire.frame(wire.Join([wire.Joined(*self._blob)])))
        elif isinstance(event, wire.Request):
            self.asked += 1
            writer.write(self._reply(event))

    def _reply(self, asked: wire.Request) -> bytes:
        match self.says:
            case Says.NOTHING:
                return b""
            case Says.BUSY:
                return wire.frame(wire.Busy(*self._blob, asked.piece))
            case Says.ABSENT:
                return wire.frame(wire.Absent(*self._blob, asked.piece))
        piece, content = asked.piece, self._piece(asked.piece)
        match self.says:
            case Says.WRONG_LENGTH:
                content = content[: len(content) // 2]
            case Says.WRONG_INDEX:
                piece = (piece + 1) % self._layout.count
            case Says.NO_PIECE_OF_THE_BLOB:
                piece = self._layout.count + 7
        begin = wire.frame(wire.Piece(*self._blob, piece, len(content)))
        return begin + wire.chunk_prefix(len(content)) + content
