"""The supernode's network side: WebSocket connections in front of the `Tracker`."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import Self

import structlog
from aiohttp import WSMsgType, web
from prometheus_client import CollectorRegistry, Counter

from shoal.messages import InvalidMessage
from shoal.operations import operations_routes
from supernode import protocol
from supernode.handout import Contact
from supernode.metrics import SupernodeMetrics
from supernode.protocol import PeerId
from supernode.settings import SupernodeSettings
from supernode.tracker import Tracker

log = structlog.get_logger()

_TICK_SECONDS = 0.02
_FAULT_SECONDS = 1.0
_HELLO_SECONDS = 10.0
_MAX_BACKLOG = 32 << 20
"""Bytes that may wait for one peer that does not read before its connection is closed."""

_ENDS = frozenset((WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED))
"""Frames after which nothing more comes."""


class _Connection:
    """One peer's WebSocket; what is to be sent goes through a queue, so that a slow peer holds up nobody."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None) -> None:
        self.socket = socket
        self._transport = transport
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._waiting = 0

    def send(self, data: bytes) -> bool:
        """Queue a message; False where too much is waiting already."""
        self._waiting += len(data)
        self._queue.put_nowait(data)
        return self._waiting <= _MAX_BACKLOG

    def abort(self) -> None:
        """End the connection without waiting for what was not sent."""
        if self._transport is not None:
            self._transport.abort()

    async def run(self) -> None:
        while True:
            data = await self._queue.get()
            self._waiting -= len(data)
            await self.socket.send_bytes(data)


class SupernodeServer:
    """The supernode as an async context manager; `port` is known inside."""

    def __init__(self, settings: SupernodeSettings, registry: CollectorRegistry) -> None:
        self._settings = settings
        self._metrics = SupernodeMetrics(registry)
        self._counters: dict[tuple[str, type], Counter] = {}
        self._connections: dict[PeerId, _Connection] = {}
        self._tracker = Tracker(
            random.Random(),
            origin_slots=settings.origin_slots,
            handout=settings.handout,
            tag_freshness=settings.tag_freshness,
            silence=3 * settings.announce_interval,
        )
        self._metrics.peers.set_function(lambda: self._tracker.peers)
        self._metrics.swarms.set_function(lambda: len(self._tracker.swarms))
        self._metrics.leases.set_function(lambda: self._tracker.leases)
        app = web.Application()
        app.add_routes([web.get(protocol.PATH, self._serve)])
        app.add_routes(operations_routes(registry, {}))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self._stack = contextlib.AsyncExitStack()
        self.port = settings.port

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        self._stack.push_async_callback(self._runner.cleanup)
        self._stack.push_async_callback(self._hang_up)
        site = web.TCPSite(self._runner, self._settings.host, self._settings.port)
        await site.start()
        self._stack.push_async_callback(site.stop)  # before the peers are hung up on: they call again at once
        self.port = self._runner.addresses[0][1]
        ticking = asyncio.create_task(self._tick())
        self._stack.push_async_callback(_cancelled, ticking)
        log.info("supernode.started", host=self._settings.host, port=self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        log.info("supernode.stopped")

    async def _hang_up(self) -> None:
        for connection in list(self._connections.values()):
            await connection.socket.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            try:
                with self._metrics.decision_seconds.time():
                    self._tracker.tick(time.monotonic())
            except Exception:  # a fault of ours: without ticks no lease ends and no news is told, to anybody
                log.exception("supernode.tick_failed")
                await asyncio.sleep(_FAULT_SECONDS)
            self._flush()

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(
            max_msg_size=protocol.MAX_MESSAGE_SIZE, compress=False, heartbeat=4 * self._settings.announce_interval
        )
        await socket.prepare(request)
        peer: PeerId | None = None
        try:
            hello = await asyncio.wait_for(self._hello(socket), _HELLO_SECONDS)
            peer = protocol.parse_peer_id(hello.peer)
            await self._registered(request, socket, peer, hello)
        except InvalidMessage as error:
            await self._refuse(socket, peer, str(error))
        except TimeoutError:
            await self._refuse(socket, peer, "no hello in time")
        return socket

    async def _registered(
        self, request: web.Request, socket: web.WebSocketResponse, peer: PeerId, hello: protocol.Hello
    ) -> None:
        connection = _Connection(socket, request.transport)
        older = self._connections.get(peer)
        if older is not None:
            await older.socket.close()
        self._connections[peer] = connection
        host = hello.host or request.remote or ""
        contact = Contact(host, hello.port, hello.zone or _subnet(host))
        self._tracker.join(peer, contact, time.monotonic(), returning=hello.returning)
        log.info("peer.joined", peer=peer, host=host, port=hello.port, zone=hello.zone)
        connection.send(
            protocol.from_supernode.encode(protocol.Welcome(protocol.VERSION, self._settings.announce_interval))
        )
        writing = asyncio.create_task(connection.run())
        try:
            await self._read(socket, peer)
        finally:
            await _cancelled(writing)
            if self._connections.get(peer) is connection:
                del self._connections[peer]
                self._tracker.leave(peer, time.monotonic())
                self._flush()
                log.info("peer.left", peer=peer)

    async def _hello(self, socket: web.WebSocketResponse) -> protocol.Hello:
        frame = await socket.receive()
        if frame.type is not WSMsgType.BINARY:
            raise InvalidMessage("the first frame is not a hello")
        hello = protocol.from_peer.decode(frame.data)
        if not isinstance(hello, protocol.Hello):
            raise InvalidMessage("the first message is not a hello")
        if hello.version != protocol.VERSION:
            raise InvalidMessage(f"version {hello.version} is not spoken here (allowed: {protocol.VERSION})")
        return hello

    async def _read(self, socket: web.WebSocketResponse, peer: PeerId) -> None:
        while (frame := await socket.receive()).type not in _ENDS:
            if frame.type is not WSMsgType.BINARY:
                raise InvalidMessage("a frame that is not binary")
            message = protocol.from_peer.decode(frame.data)
            self._counter("in", type(message)).inc()
            self._tracker.receive(peer, message, time.monotonic())
            self._flush()

    def _flush(self) -> None:
        """Send what the tracker decided; a message to many peers is encoded once."""
        for peers, message in self._tracker.take():
            data = protocol.from_supernode.encode(message)
            self._counter("out", type(message)).inc(len(peers))
            for peer in peers:
                connection = self._connections.get(peer)
                if connection is not None and not connection.send(data):
                    log.warning("peer.not_reading", peer=peer)
                    self._metrics.dropped.labels("not reading").inc()
                    connection.abort()

    def _counter(self, direction: str, kind: type) -> Counter:
        """The count of a kind of messages; to look its labels up each time costs as much as to decode a message."""
        found = self._counters.get((direction, kind))
        if found is None:
            found = self._counters[direction, kind] = self._metrics.messages.labels(direction, kind.__name__)
        return found

    async def _refuse(self, socket: web.WebSocketResponse, peer: PeerId | None, reason: str) -> None:
        log.warning("peer.refused", peer=peer, reason=reason)
        self._metrics.dropped.labels("refused").inc()
        with contextlib.suppress(ConnectionError):
            await socket.send_bytes(protocol.from_supernode.encode(protocol.Refused(reason[:500])))
            await socket.close()


def _subnet(host: str) -> str:
    """Peers without a zone are near to those in the same /24 (or, for IPv6, the same first half)."""
    return host.rpartition(".")[0] if "." in host else ":".join(host.split(":")[:4])


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, ConnectionError):
        await task
