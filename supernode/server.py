"""The supernode's network side: WebSocket connections in front of the `Tracker`."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from typing import Self

import structlog
from aiohttp import WSMsgType, web
from prometheus_client import CollectorRegistry

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
_CLOSE_SECONDS = 1.0
_TURN = 256
"""Messages of one peer that are taken before others have their turn: those that are here are read without waiting."""
_MAX_BACKLOG = 32 << 20
"""Bytes that may wait for one peer that does not read before its connection is closed."""

_ENDS = frozenset((WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED))
"""Frames after which nothing more comes."""


class _Connection:
    """One peer's WebSocket; what is to be sent goes through a queue, so that a slow peer holds up nobody.

    As an async context manager it owns the task that sends.
    """

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None, peer: PeerId) -> None:
        self.socket = socket
        self._transport = transport
        self._peer = peer
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._waiting = 0

    async def __aenter__(self) -> Self:
        self._writing = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, *_: object) -> None:
        await _cancelled(self._writing)

    def send(self, data: bytes) -> bool:
        """Queue a message; False where too much is waiting already."""
        self._waiting += len(data)
        self._queue.put_nowait(data)
        return self._waiting <= _MAX_BACKLOG

    def abort(self) -> None:
        """End the connection without waiting for what was not sent."""
        if self._transport is not None:
            self._transport.abort()

    async def _write(self) -> None:
        try:
            while True:
                data = await self._queue.get()
                self._waiting -= len(data)
                await self.socket.send_bytes(data)
        except ConnectionError:
            self.abort()
        except Exception:
            log.exception("peer.sending_failed", peer=self._peer)
            self.abort()


class SupernodeServer:
    """The supernode as an async context manager; `port` is known inside."""

    def __init__(self, settings: SupernodeSettings, registry: CollectorRegistry) -> None:
        self._settings = settings
        self._metrics = SupernodeMetrics(registry)
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
        await asyncio.gather(*(connection.socket.close() for connection in self._connections.values()))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            try:
                with self._metrics.decision_seconds.time():
                    self._tracker.tick(time.monotonic())
                self._flush()
            except Exception:  # a fault of ours: without ticks no lease ends and no news is told, to anybody
                log.exception("supernode.tick_failed")
                await asyncio.sleep(_FAULT_SECONDS)

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(
            timeout=_CLOSE_SECONDS,
            max_msg_size=protocol.MAX_MESSAGE_SIZE,
            compress=False,
            heartbeat=4 * self._settings.announce_interval,
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
        except Exception:  # a fault of ours ends the connection that it came with, and no other one
            log.exception("peer.failed", peer=peer)
            await self._refuse(socket, peer, "a fault of the supernode")
        return socket

    async def _registered(
        self, request: web.Request, socket: web.WebSocketResponse, peer: PeerId, hello: protocol.Hello
    ) -> None:
        older = self._connections.get(peer)
        if older is not None:
            older.abort()
        async with _Connection(socket, request.transport, peer) as connection:
            self._connections[peer] = connection
            try:
                self._join(request, peer, hello)
                connection.send(
                    protocol.from_supernode.encode(protocol.Welcome(protocol.VERSION, self._settings.announce_interval))
                )
                await self._read(socket, peer)
            finally:
                if self._connections.get(peer) is connection:
                    del self._connections[peer]
                    self._tracker.leave(peer, time.monotonic())
                    self._flush()
                    log.info("peer.left", peer=peer)

    def _join(self, request: web.Request, peer: PeerId, hello: protocol.Hello) -> None:
        host = hello.host or request.remote or ""
        contact = Contact(host, hello.port, hello.zone or _subnet(host))
        self._tracker.join(peer, contact, time.monotonic(), returning=hello.returning, confirms=hello.confirms)
        log.info("peer.joined", peer=peer, host=host, port=hello.port, zone=hello.zone)

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
        taken, turn = self._metrics.taken, 0
        while True:
            kind, data, _ = await socket.receive()
            if kind is not WSMsgType.BINARY:
                if kind in _ENDS:
                    return
                raise InvalidMessage("a frame that is not binary")
            message = protocol.from_peer.decode(data)
            taken[type(message)] += 1
            self._tracker.receive(peer, message, time.monotonic())
            if self._tracker.has_outgoing:
                self._flush()
            turn += 1
            if turn == _TURN:
                turn = 0
                await asyncio.sleep(0)

    def _flush(self) -> None:
        """Send what the tracker decided; a message to many peers is encoded once."""
        for alarm in self._tracker.take_alarms():
            self._metrics.alarms.labels(alarm.kind).inc()
            log.error("members.contradict", kind=alarm.kind, about=alarm.about, not_believed=alarm.peer)
        for peers, message in self._tracker.take():
            try:
                data = protocol.from_supernode.encode(message)
            except InvalidMessage:  # of ours, so that whoever made the tracker send it is not to blame
                log.exception("supernode.message_not_sent", kind=type(message).__name__)
                continue
            self._metrics.sent[type(message)] += len(peers)
            self._deliver(peers, data)

    def _deliver(self, peers: Sequence[PeerId], data: bytes) -> None:
        for peer in peers:
            connection = self._connections.get(peer)
            if connection is not None and not connection.send(data):
                log.warning("peer.not_reading", peer=peer)
                self._metrics.dropped.labels("not reading").inc()
                connection.abort()

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
