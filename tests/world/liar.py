"""A peer of the tests' own that claims a whole blob and gives nothing of it, which no Shoal does."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass

import aiohttp

from bench.daemons import free_ports
from peer import wire
from shoal.digest import Digest
from shoal.pieces import PieceLayout, piece_digest, to_bitfield
from supernode import protocol
from tests.world.threads import serve

_ANNOUNCE_SECONDS = 1.0


@dataclass
class Liar:
    """Announces that it has `content`. `says_busy`: answers each request so, instead of not at all; `tells_digests`:
    the right digests of pieces to a supernode that asks, without which nobody asks the liar for any."""

    content: bytes
    says_busy: bool
    tells_digests: bool
    asked: int = 0
    """Requests so far."""

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
            held = protocol.Announce([protocol.Held(*self._blob)])
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

    def _table(self) -> protocol.Table:
        layout = PieceLayout.of(len(self.content))
        spans = [layout.span(index) for index in range(layout.count)]
        digests = b"".join(piece_digest(self.content[span.start : span.end]) for span in spans)
        return protocol.Table(*self._blob, to_bitfield(layout.all, layout.count), digests)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A neighbour that has connected: claim all, give nothing."""
        decoder = wire.Decoder(lambda _: None)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(1 << 10):
                for event in self._decoded(decoder, data):
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
            if self.says_busy:
                writer.write(wire.frame(wire.Busy(event.digest, event.size, event.piece)))
