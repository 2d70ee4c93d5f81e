"""The supernode's network side: WebSocket connections in front of the `Tracker`."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol, Self

import msgspec
import structlog
from aiohttp import WSMsgType, web
from prometheus_client import CollectorRegistry

from shoal.handshake import (
    NONCE_SIZE,
    SEAL_SIZE,
    SUPERNODE,
    UNSEALED,
    NotAMember,
    Responder,
    Session,
    Unsealed,
    is_opening,
)
from shoal.limitbook import LimitBook
from shoal.limits import Traffic
from shoal.membership import Membership
from shoal.messages import InvalidMessage
from shoal.reference import Location
from shoal.strangers import Complaints, group_of
from supernode import protocol
from supernode.door import Door, Place
from supernode.handout import Contact
from supernode.metrics import SupernodeMetrics
from supernode.outbox import Outgoing
from supernode.protocol import PeerId
from supernode.report import Report
from supernode.roster import Node, Roster
from supernode.settings import SupernodeSettings
from supernode.telemetry import Telemetry
from supernode.tracker import Tracker

log = structlog.get_logger()

_TICK_SECONDS = 0.02
_FAULT_SECONDS = 1.0
_REQUEST_SECONDS, _HELLO_SECONDS = 10.0, 5.0
"""Until the head of a request is here, and from then on until the peer has proved and said who it is."""
_MAX_LINE, _MAX_HEADERS = 4 << 10, 64
"""Bytes of a request's first line and of each header, and how many headers it may have."""
_CLOSE_SECONDS = 1.0
_TURN_SECONDS, _REST = 0.005, 1.0
"""Seconds of the processor for which messages of one peer are taken before others have their turn, and how many times
as long they have it then: what is here is read without waiting, and one peer gets half of the time at most."""
_MAX_HELLO_SIZE = 4 << 10
_MAX_BACKLOG = 32 << 20
"""Bytes that may wait for one peer that does not read before its connection is closed."""

_RESERVED = 64
"""File descriptors for what is no connection."""
MAX_PEERS_OF_ADDRESS = 1024
"""Peers from one address where everybody is taken for a member."""

_ENDS = frozenset((WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED))
"""Frames after which nothing more comes."""


class NoPlace(InvalidMessage):
    """A peer that is one too many."""


class _Connection:
    """One peer's WebSocket; what is to be sent goes through a queue, so that a slow peer holds up nobody.

    As an async context manager it owns the task that sends.
    """

    def __init__(
        self,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport | None,
        peer: PeerId,
        session: Session | Unsealed,
        group: str,
        *,
        is_limited: bool,
    ) -> None:
        """`group`: what counts as the address that it comes from. `is_limited`: whether it takes `Limits`."""
        self.socket = socket
        self.group = group
        self.is_limited = is_limited
        self._transport = transport
        self._peer = peer
        self._session = session
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

    @property
    def is_over(self) -> bool:
        """Whether the connection has ended, though that may not have been noticed where it is read."""
        return self._transport is None or self._transport.is_closing()

    def abort(self) -> None:
        """End the connection without waiting for what was not sent."""
        if self._transport is not None:
            self._transport.abort()

    async def _write(self) -> None:
        try:
            while True:
                data = await self._queue.get()
                self._waiting -= len(data)
                await self.socket.send_bytes(self._session.seal(data))
        except ConnectionError:
            self.abort()
        except Exception:
            log.exception("peer.sending_failed", peer=self._peer)
            self.abort()


class NodeListener(Protocol):
    """Who deals with nodes besides the tracker (`supernode.preheating.board.PreheatBoard` implements it)."""

    def joined(self, node: Node) -> None:
        """A node is here."""

    def left(self, peer: PeerId) -> None:
        """A node has gone."""

    def heard(self, peer: PeerId, message: protocol.PreheatProgress | protocol.Tags) -> None:
        """A node tells how a preheat goes, or answers."""


class SupernodeServer:
    """The supernode as an async context manager; `port` is known inside."""

    def __init__(
        self, settings: SupernodeSettings, registry: CollectorRegistry, membership: Membership | None = None
    ) -> None:
        """Without a membership everybody is a member."""
        self._settings = settings
        self._membership = Membership() if membership is None else membership
        self._connections: dict[PeerId, _Connection] = {}
        self.roster = Roster()
        self.telemetry = Telemetry()
        self.preheats: NodeListener | None = None
        self._complaints = Complaints()
        self._addresses: Counter[str] = Counter()
        """How many peers are connected from each address."""
        self.tracker = Tracker(
            random.Random(),
            origin_slots=settings.origin_slots,
            handout=settings.handout,
            tag_freshness=settings.tag_freshness,
            silence=3 * settings.announce_interval,
        )
        self._metrics = SupernodeMetrics(registry, self.tracker, lambda: self._membership.ends)
        self.limits = LimitBook(settings.limits, self._limit)
        """What holds where nodes say nothing."""
        app = web.Application()
        app.add_routes([web.get(protocol.PATH, self._serve)])
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=1.0,
            keepalive_timeout=_REQUEST_SECONDS,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
            max_headers=_MAX_HEADERS,
        )
        self._stack = contextlib.AsyncExitStack()
        self.port = settings.port

    def reconfigure(self, settings: SupernodeSettings) -> None:
        """What of the settings is live holds from now on."""
        self.tracker.reconfigure(
            origin_slots=settings.origin_slots, handout=settings.handout, tag_freshness=settings.tag_freshness
        )
        self.limits.configure(settings.limits)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        self._stack.push_async_callback(self._runner.cleanup)
        self._stack.push_async_callback(self._hang_up)
        assert self._runner.server is not None
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        refused = self._metrics.dropped.labels("not_a_member").inc
        self._door = Door(
            self._runner.server, self._settings.host, self._settings.port, self._membership, descriptors, refused
        )
        # closed before the peers are hung up on: they call again at once
        await self._stack.enter_async_context(self._door)
        self.port = self._door.port
        self._max_peers = descriptors - descriptors // 4 - _RESERVED
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
                    self.tracker.tick(time.monotonic())
                self._flush()
                self._send(self.telemetry.decide())
            except Exception:  # a fault of ours: without ticks no lease ends and no news is told, to anybody
                log.exception("supernode.tick_failed")
                await asyncio.sleep(_FAULT_SECONDS)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        if self._membership.tls is not None and (transport is None or not transport.get_extra_info("peercert")):
            reason = "a certificate of the cluster is needed here"
            if self._complaints.is_due(request.remote or "", time.monotonic()):
                log.warning("peer.refused", address=request.remote, reason=reason)
            self._metrics.dropped.labels("not_a_member").inc()
            raise web.HTTPForbidden(text=reason)
        socket = web.WebSocketResponse(
            timeout=_CLOSE_SECONDS,
            max_msg_size=protocol.MAX_MESSAGE_SIZE + SEAL_SIZE,
            compress=False,
            heartbeat=4 * self._settings.announce_interval,
        )
        try:
            await socket.prepare(request)
        except ConnectionError:  # it has gone meanwhile, and aiohttp finds that out again of any other answer
            return web.Response()
        address = request.remote or ""
        peer: PeerId | None = None
        session: Session | Unsealed = UNSEALED
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                session = await self._proved(socket)
                hello = await self._hello(socket, session)
            peer = protocol.parse_peer_id(hello.peer)
            if session.other not in ("", peer):
                raise InvalidMessage("not the peer that has proved its membership")
            await self._registered(request, socket, session, peer, hello)
        except (InvalidMessage, ConnectionError) as error:
            await self._refuse(socket, session, address, peer, str(error), _kind_of(error))
        except TimeoutError:
            silent = "no hello in time" if peer is None else "it has gone without a word"
            await self._refuse(socket, session, address, peer, silent, "silent")
        except Exception:  # a fault of ours ends the connection that it came with, and no other one
            log.exception("peer.failed", peer=peer)
            await self._refuse(socket, session, address, peer, "a fault of the supernode", "fault")
        return socket

    async def _proved(self, socket: web.WebSocketResponse) -> Session | Unsealed:
        """The session of a peer that has proved that it knows the cluster's secret; raises `NotAMember`."""
        keys = self._membership.keys
        if not keys:
            return UNSEALED
        handshake = Responder(keys, "control", SUPERNODE, secrets.token_bytes(NONCE_SIZE))
        while handshake.session is None:
            await socket.send_bytes(handshake.received(await _binary(socket)))
        return handshake.session

    async def _registered(
        self,
        request: web.Request,
        socket: web.WebSocketResponse,
        session: Session | Unsealed,
        peer: PeerId,
        hello: protocol.Hello,
    ) -> None:
        group = group_of(request.remote or "")
        older = self._connections.get(peer)
        self._check_place(peer, group, older)
        if older is not None:
            older.abort()
        self._door.known(_place(request))
        async with _Connection(
            socket, request.transport, peer, session, group, is_limited=hello.is_limited
        ) as connection:
            self._connections[peer] = connection
            self._addresses[connection.group] += 1
            try:
                self._join(request, peer, hello)
                interval = self._settings.announce_interval
                connection.send(
                    protocol.from_supernode.encode(protocol.Welcome(protocol.VERSION, interval, probes=True))
                )
                self._tell_limits([connection])
                self._send(self.telemetry.joined(peer, hello))
                node = self.roster.get(peer)
                if self.preheats is not None and node is not None:
                    self.preheats.joined(node)
                await self._read(socket, session, peer)
            finally:
                self._addresses[connection.group] -= 1
                if not self._addresses[connection.group]:
                    del self._addresses[connection.group]
                if self._connections.get(peer) is connection:
                    del self._connections[peer]
                    self.roster.leave(peer)
                    if self.preheats is not None:
                        self.preheats.left(peer)
                    self.telemetry.left(peer)
                    self.tracker.leave(peer, time.monotonic())
                    self._flush()
                    log.info("peer.left", peer=peer)

    def _limit(self, traffic: Traffic, rate: float) -> None:
        log.info("limit.changed", traffic=traffic, bytes_per_second=rate)
        self._tell_limits(self._connections.values())

    def _tell_limits(self, connections: Iterable[_Connection]) -> None:
        """Tell peers what holds where their nodes say nothing."""
        takers = [connection for connection in connections if connection.is_limited]
        if takers:
            message = protocol.from_supernode.encode(protocol.Limits(**msgspec.structs.asdict(self.limits.said)))
            for connection in takers:
                connection.send(message)

    def _check_place(self, peer: PeerId, group: str, older: _Connection | None) -> None:
        """Raises `NoPlace` where a peer is one too many, or takes the place of another one."""
        if older is None and len(self._connections) >= self._max_peers:
            raise NoPlace("this supernode has as many peers as it may have")
        if not self._membership.is_open:
            return
        if older is not None and older.group != group and not older.is_over:
            raise NoPlace(f"the peer {peer} is connected from another address")
        if older is None and self._addresses[group] >= MAX_PEERS_OF_ADDRESS:
            raise NoPlace("too many peers from one address")

    def _join(self, request: web.Request, peer: PeerId, hello: protocol.Hello) -> None:
        host = hello.host or request.remote or ""
        contact = Contact(host, hello.port, hello.zone or _subnet(host))
        self.tracker.join(
            peer,
            contact,
            time.monotonic(),
            returning=hello.returning,
            confirms=hello.confirms,
            visits=hello.visits,
        )
        self.roster.join(peer, hello, contact, time.time())
        log.info("peer.joined", peer=peer, name=hello.name, host=host, port=hello.port, zone=hello.zone)

    async def _hello(self, socket: web.WebSocketResponse, session: Session | Unsealed) -> protocol.Hello:
        data = await _binary(socket)
        if session is UNSEALED and is_opening(data):
            raise InvalidMessage("this supernode has no cluster secret, and the peer wants a proof of one")
        hello = protocol.from_peer.decode(session.open(memoryview(data)))
        if not isinstance(hello, protocol.Hello):
            raise InvalidMessage("the first message is not a hello")
        if hello.version != protocol.VERSION:
            raise InvalidMessage(f"version {hello.version} {protocol.NOT_SPOKEN} (allowed: {protocol.VERSION})")
        return hello

    async def _read(self, socket: web.WebSocketResponse, session: Session | Unsealed, peer: PeerId) -> None:
        taken, spent = self._metrics.taken, 0.0
        while True:
            kind, data, _ = await socket.receive()
            if kind is not WSMsgType.BINARY:
                if kind in _ENDS:
                    return
                if isinstance(data, TimeoutError):  # no answer to a ping
                    raise data
                raise InvalidMessage("a frame that is not binary")
            began = time.thread_time()  # a peer is not to pay for what else the machine does
            message = protocol.from_peer.decode(session.open(memoryview(data)))
            taken[type(message)] += 1
            if isinstance(message, Report):
                self.telemetry.reported(peer, message, len(data))
            elif not isinstance(message, protocol.PreheatProgress | protocol.Tags):
                self.tracker.receive(peer, message, time.monotonic())
            elif self.preheats is not None:
                self.preheats.heard(peer, message)
            if self.tracker.has_outgoing:
                self._flush()
            spent += time.thread_time() - began
            if spent > _TURN_SECONDS:
                await asyncio.sleep(_REST * spent)
                spent = 0.0

    def refresh(self, location: Location) -> None:
        """Have all nodes ask the origin anew for a repository."""
        self.tracker.refresh(location)
        self._flush()

    def send(self, peer: PeerId, message: protocol.FromSupernode) -> None:
        """Tell a node something; nothing happens where it has gone."""
        if peer in self._connections:
            self._send([([peer], message)])

    def _flush(self) -> None:
        """Send what the tracker decided."""
        for alarm in self.tracker.take_alarms():
            self._metrics.alarms.labels(alarm.kind).inc()
            log.error("members.contradict", kind=alarm.kind, about=alarm.about, not_believed=alarm.peer)
        self._send(self.tracker.take())

    def _send(self, outgoing: Sequence[Outgoing]) -> None:
        """A message to many peers is encoded once."""
        for peers, message in outgoing:
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
                self._metrics.dropped.labels("not_reading").inc()
                connection.abort()

    async def _refuse(
        self,
        socket: web.WebSocketResponse,
        session: Session | Unsealed,
        address: str,
        peer: PeerId | None,
        reason: str,
        kind: str,
    ) -> None:
        """`kind`: one of `supernode.metrics.DROPPED`."""
        if self._complaints.is_due(address, time.monotonic()):
            log.warning("peer.refused", peer=peer, address=address, reason=reason)
        self._metrics.dropped.labels(kind).inc()
        with contextlib.suppress(ConnectionError):
            await socket.send_bytes(session.seal(protocol.from_supernode.encode(protocol.Refused(reason[:500]))))
            await socket.close()


async def _binary(socket: web.WebSocketResponse) -> bytes:
    """The next message of somebody who has not said who it is; raises `InvalidMessage`."""
    frame = await socket.receive()
    if frame.type is not WSMsgType.BINARY:
        raise InvalidMessage("the first frames are not a hello")
    if len(frame.data) > _MAX_HELLO_SIZE:
        raise InvalidMessage(f"a first message of {len(frame.data)} bytes")
    data: bytes = frame.data
    return data


def _kind_of(error: Exception) -> str:
    """Why a connection is ended, as metrics have it."""
    kinds = ((NotAMember, "not_a_member"), (NoPlace, "no_place"), (InvalidMessage, "protocol"))
    return next((kind for each, kind in kinds if isinstance(error, each)), "lost")


def _place(request: web.Request) -> Place:
    """Where a connection comes from."""
    found = None if request.transport is None else request.transport.get_extra_info("peername")
    return (found[0], found[1]) if found else ("", 0)


def _subnet(host: str) -> str:
    """Peers without a zone are near to those in the same /24 (or, for IPv6, the same first half)."""
    return host.rpartition(".")[0] if "." in host else ":".join(host.split(":")[:4])


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, ConnectionError):
        await task
