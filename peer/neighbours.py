"""The connections to other peers: listening, dialling, greeting, and one connection for each pair."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from peer import wire
from peer.connection import Connection
from shoal.digest import Digest
from shoal.messages import InvalidMessage
from supernode.protocol import PeerId, parse_peer_id

log = structlog.get_logger()

_GREETING_SECONDS = 10.0
_DIAL_SECONDS = 5.0
_MAX_CONNECTIONS = 1024
_BACKLOG = 512
_SHUN_SECONDS = 600.0


@dataclass(eq=False, slots=True)
class Neighbour:
    """A peer that is connected and has said who it is.

    `told` are the blobs that it knows us to have pieces of, `joined` those that it told us of.
    """

    peer: PeerId
    connection: Connection
    told: set[Digest] = field(default_factory=set)
    joined: set[Digest] = field(default_factory=set)


class Exchange(Protocol):
    """Who is told of neighbours and what they say."""

    def arrived(self, neighbour: Neighbour) -> None: ...

    def gone(self, neighbour: Neighbour, reason: str) -> None: ...

    def said(self, neighbour: Neighbour, event: wire.Event) -> None: ...

    def accept(self, neighbour: Neighbour, piece: wire.Piece) -> bytearray | None: ...


class Neighbours:
    """All connections of a peer, as an async context manager."""

    def __init__(self, peer: PeerId, host: str, port: int, exchange: Exchange) -> None:
        self._me = peer
        self._host = host
        self.port = port
        self._exchange = exchange
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._dialling: set[PeerId] = set()
        self._strangers: dict[Connection, asyncio.TimerHandle] = {}
        self._outgoing: dict[Connection, PeerId] = {}
        self._known: dict[Connection, Neighbour] = {}
        self._shunned: dict[PeerId, float] = {}
        self.all: dict[PeerId, Neighbour] = {}

    async def __aenter__(self) -> Neighbours:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.create_server((self._host, self.port), family=family, backlog=_BACKLOG)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._own(self._listen(listener))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        for connection in [*self._strangers, *self._known]:
            connection.close("stopped")

    def meet(self, peer: PeerId, host: str, port: int) -> None:
        """Connect to a peer, where that is not so already."""
        if peer in self.all or peer in self._dialling or peer == self._me or self.shuns(peer):
            return
        if len(self._strangers) + len(self._known) < _MAX_CONNECTIONS:
            self._dialling.add(peer)
            self._own(self._dial(peer, host, port))

    def shun(self, neighbour: Neighbour, reason: str) -> None:
        """End the connection to a peer and have nothing to do with it for a while."""
        log.warning("neighbour.shunned", peer=neighbour.peer, reason=reason)
        self._shunned[neighbour.peer] = time.monotonic() + _SHUN_SECONDS
        neighbour.connection.close(reason)

    def shuns(self, peer: PeerId) -> bool:
        return self._shunned.get(peer, 0.0) > time.monotonic()

    # --- connections ----------------------------------------------------------------------------------------------

    def _own(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listener)
            except OSError as error:
                log.warning("listener.failed", error=str(error))
                await asyncio.sleep(0.1)
                continue
            if len(self._strangers) + len(self._known) >= _MAX_CONNECTIONS:
                accepted.close()
                continue
            self._stranger(accepted)

    async def _dial(self, peer: PeerId, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        sock: socket.socket | None = None
        try:
            async with asyncio.timeout(_DIAL_SECONDS):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                family, kind, proto, _, address = found[0]
                sock = socket.socket(family, kind, proto)
                sock.setblocking(False)
                await loop.sock_connect(sock, address)
        except (OSError, TimeoutError) as error:
            log.info("neighbour.unreachable", peer=peer, host=host, port=port, error=repr(error))
            if sock is not None:
                sock.close()
            self._dialling.discard(peer)
            return
        connection = self._stranger(sock)
        self._outgoing[connection] = peer
        connection.send(wire.Hello(wire.VERSION, self._me))

    def _stranger(self, sock: socket.socket) -> Connection:
        connection = Connection(sock, self)
        timer = asyncio.get_running_loop().call_later(_GREETING_SECONDS, connection.close, "no hello in time")
        self._strangers[connection] = timer
        return connection

    def _greet(self, connection: Connection, event: wire.Event) -> None:
        if not isinstance(event, wire.Hello):
            raise InvalidMessage("the first message is not a hello")
        if event.version != wire.VERSION:
            raise InvalidMessage(f"version {event.version} is not spoken here (allowed: {wire.VERSION})")
        peer = parse_peer_id(event.peer)
        dialled = self._outgoing.get(connection)
        if peer == self._me or self.shuns(peer) or (dialled is not None and dialled != peer):
            raise InvalidMessage("not a peer to talk to")
        self._strangers.pop(connection).cancel()
        if dialled is None:
            connection.send(wire.Hello(wire.VERSION, self._me))
        self._dialling.discard(peer)
        older = self.all.get(peer)
        if older is not None:
            initiator = self._me if dialled is not None else peer
            if initiator != min(self._me, peer):
                connection.close("connected already")
                return
            older.connection.close("connected twice")
        neighbour = Neighbour(peer, connection)
        self.all[peer] = self._known[connection] = neighbour
        self._exchange.arrived(neighbour)

    # --- what connections tell (peer.connection.Handler) ----------------------------------------------------------

    def accept(self, connection: Connection, piece: wire.Piece) -> bytearray | None:
        """Memory for a piece."""
        neighbour = self._known.get(connection)
        if neighbour is None:
            raise InvalidMessage("a piece before the hello")
        return self._exchange.accept(neighbour, piece)

    def received(self, connection: Connection, event: wire.Event) -> None:
        """A message: the first one is a greeting."""
        neighbour = self._known.get(connection)
        if neighbour is None:
            self._greet(connection, event)
        else:
            self._exchange.said(neighbour, event)

    def closed(self, connection: Connection, reason: str) -> None:
        """A connection is over."""
        timer = self._strangers.pop(connection, None)
        if timer is not None:
            timer.cancel()
            log.info("stranger.dropped", reason=reason)
        dialled = self._outgoing.pop(connection, None)
        if dialled is not None:
            self._dialling.discard(dialled)
        neighbour = self._known.pop(connection, None)
        if neighbour is not None:
            if self.all.get(neighbour.peer) is neighbour:
                del self.all[neighbour.peer]
            log.info("neighbour.gone", peer=neighbour.peer, reason=reason)
            self._exchange.gone(neighbour, reason)
