"""The connections to other peers: listening, dialling, greeting, and one connection for each pair."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from peer import wire
from peer.connection import Connection, Intake, Span
from peer.entrance import Entrance
from peer.reachability import Reachability, outcome_of
from shoal.handshake import UNSEALED, NotAMember, Session, Unsealed
from shoal.membership import Membership
from shoal.messages import InvalidMessage
from shoal.strangers import Complaints, Strangers, group_of
from supernode.protocol import Outcome, PeerId, parse_peer_id

log = structlog.get_logger()

MAX_CONNECTIONS = 1024
MAX_STRANGERS, MAX_STRANGERS_OF_ADDRESS = 128, 64
"""Accepted connections that have not said who they are: in all, and from one address. They have places of their own."""
_SHARE_OF_ADDRESS = 4
"""The part of all neighbours that may come from one address where everybody is taken for a member."""
MAX_SHUNNED = 4096

_GREETING_SECONDS = 5.0
"""From a connection to the hello on it, with all that has to be proved before."""
_DIAL_SECONDS = 2.5
"""A SYN that was lost is sent again after 1 s, 3 s and 7 s: a new dial comes earlier than the third."""
_LISTEN_REST_SECONDS = 0.5
"""After an error of the listening socket, such as no file descriptor being left."""
_BACKLOG = 512
_REFUSALS = ("not_a_member", "no_hello", "silent", "protocol", "lost")
"""Why connections end before both sides have said who they are."""


class Handler(Protocol):
    """Who is told of neighbours and of what they say.

    Its methods are called by the event loop one after the other, and never inside a call of `Neighbours`. For each peer
    `arrived` comes first, then what it says, then `gone`, which is called once for each `arrived`. What they raise is
    logged and ends the connection.
    """

    def arrived(self, peer: PeerId) -> None:
        """A peer is connected and has said who it is."""

    def gone(self, peer: PeerId, reason: str) -> None:
        """The connection to a peer is over. It has left `Neighbours.all` before."""

    def unreachable(self, peer: PeerId) -> None:
        """A dial has failed, and the peer has not connected by itself either."""

    def said(self, peer: PeerId, event: wire.Event) -> None:
        """A message or a whole piece; raises `InvalidMessage` to end the connection."""

    def accept(self, peer: PeerId, piece: wire.Piece) -> bytearray | None:
        """Memory for a piece that begins, or None to drop it; raises `InvalidMessage` to end the connection."""


class Shunned:
    """Peers to have nothing to do with for a while. Times are in seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._until: dict[PeerId, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def add(self, peer: PeerId, until: float, now: float) -> None:
        """Shun a peer; where they are too many, the one that would be free again first is let go."""
        self._until = {other: end for other, end in self._until.items() if end > now}
        self._until[peer] = max(until, self._until.get(peer, 0.0))
        if len(self._until) > MAX_SHUNNED:
            del self._until[min(self._until, key=self._until.__getitem__)]

    def holds(self, peer: PeerId, now: float) -> bool:
        return self._until.get(peer, 0.0) > now


@dataclass(eq=False, slots=True)
class _Stranger:
    """Somebody who has not said who it is."""

    address: str
    dialled: PeerId | None = None
    """Whom this peer has called."""
    port: int = 0
    """Where it has called."""
    connection: Connection | None = None
    """None as long as there is something to prove."""
    proving: asyncio.Task[None] | None = None
    proved: str = ""
    """Which peer it has proved to be; empty where there is nothing to prove, or where certificates do not tell."""
    timer: asyncio.TimerHandle | None = None


class Neighbours:
    """All connections of a peer, as an async context manager."""

    def __init__(
        self,
        peer: PeerId,
        host: str,
        port: int,
        handler: Handler,
        membership: Membership,
        intake: Intake | None = None,
        *,
        connections: int = MAX_CONNECTIONS,
        strangers: int = MAX_STRANGERS,
        strangers_of_address: int = MAX_STRANGERS_OF_ADDRESS,
    ) -> None:
        """`intake`: how fast bytes may come, over all connections together."""
        self._me = peer
        self._host = host
        self.port = port
        self._handler = handler
        self._max_connections = connections
        self._intake = intake
        self._entrance = Entrance(membership, peer)
        self._waiting: Strangers[_Stranger] = Strangers(strangers, strangers_of_address)
        """Those who were accepted."""
        self._complaints = Complaints()
        self.reachability = Reachability()
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._dialling: set[PeerId] = set()
        self._strangers: dict[Connection, _Stranger] = {}
        self._peers: dict[Connection, PeerId] = {}
        self._addresses: dict[Connection, str] = {}
        """Where neighbours that have called this peer come from."""
        self._leaving: dict[PeerId, str] = {}
        """Why peers are gone of whom the handler has not been told that yet."""
        self._shunned = Shunned()
        self.refusals = dict.fromkeys(itertools.product(("accepted", "dialled"), _REFUSALS), 0)
        """Handshakes that failed, by who began them and why."""
        self.all: dict[PeerId, Connection] = {}
        """The peers that are connected and have said who they are."""

    async def __aenter__(self) -> Neighbours:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.create_server((self._host, self.port), family=family, backlog=_BACKLOG)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._own(self._listen(listener))
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all connections; the handler has been told of it on return."""
        listener, self._listener = self._listener, None
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            if listener is not None:
                listener.close()
            for connection in [*self._strangers, *self._peers]:
                connection.close("stopped")
        await asyncio.sleep(0)

    def dial(self, peer: PeerId, host: str, port: int) -> None:
        """Connect to a peer, where that is not so or underway already; `arrived` or `unreachable` follows.

        Does nothing outside of the context.
        """
        if peer in self.all or peer in self._dialling or peer == self._me or self._listener is None:
            return
        self._dialling.add(peer)
        if self.shuns(peer) or len(self._peers) + len(self._dialling) > self._max_connections:
            self._missed(peer)
        else:
            self._own(self._dial(peer, host, port))

    async def visit(self, peer: PeerId, host: str, port: int) -> str:
        """Connect to a peer, prove membership to each other where the cluster knows its members, and hang up. Returns
        a value of `Outcome`."""
        outcome = Outcome.REACHED
        sock: socket.socket | None = None
        try:
            async with asyncio.timeout(_DIAL_SECONDS):
                sock = await _connect(host, port)
                sock, _ = await self._entrance.go_in(sock, peer)
        except (InvalidMessage, OSError, UnicodeError) as error:
            outcome = outcome_of(error)
        finally:
            if sock is not None:
                sock.close()
        self.reachability.called(host, port, outcome, time.monotonic())
        return outcome

    def send(self, peers: Sequence[PeerId], message: wire.Kinds) -> None:
        """Send a message to those of `peers` that are connected."""
        data = wire.codec.encode(message)
        for peer in peers:
            connection = self.all.get(peer)
            if connection is not None:
                connection.send_encoded(data)

    def send_piece(self, peer: PeerId, span: Span) -> None:
        """Send a piece; where the peer is not connected, the span is released unsent."""
        connection = self.all.get(peer)
        if connection is not None:
            connection.send_piece(span)
        else:
            asyncio.get_running_loop().call_soon(span.release, False)

    def hang_up(self, peer: PeerId, reason: str, shun: float = 0.0) -> None:
        """End the connection to a peer, and have nothing to do with it for `shun` seconds."""
        if shun > 0:
            log.warning("neighbour.shunned", peer=peer, reason=reason, seconds=shun)
            now = time.monotonic()
            self._shunned.add(peer, now + shun, now)
        connection = self.all.get(peer)
        if connection is not None:
            connection.close(reason)

    def shuns(self, peer: PeerId) -> bool:
        """Whether this peer has nothing to do with that one for now."""
        return self._shunned.holds(peer, time.monotonic())

    def heard_at(self, peer: PeerId) -> float | None:
        """When bytes of a peer came last, in seconds of the monotonic clock; None where it is not connected."""
        connection = self.all.get(peer)
        return None if connection is None else connection.heard_at

    # --- connections ----------------------------------------------------------------------------------------------

    def _own(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("neighbours.task_failed", exc_info=task.exception())

    async def _listen(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
                self._accepted(sock, address[0])
                await asyncio.sleep(0)  # who says hello at once is no stranger any more when the next one is accepted
            except Exception:
                log.exception("listener.failed")
                await asyncio.sleep(_LISTEN_REST_SECONDS)

    def _accepted(self, sock: socket.socket, address: str) -> None:
        stranger = _Stranger(address)
        leaving = self._waiting.enter(stranger, address)
        if leaving is not None:
            self._drop(leaving, "too many strangers")
        if self._entrance.is_open:
            self._begin(sock, stranger, UNSEALED)
        else:
            stranger.proving = self._own(self._let_in(sock, stranger))
            # a task that is cancelled before it has begun closes nothing
            stranger.proving.add_done_callback(lambda task: sock.close() if task.cancelled() else None)

    async def _let_in(self, sock: socket.socket, stranger: _Stranger) -> None:
        is_in = False
        try:
            async with asyncio.timeout(_GREETING_SECONDS):
                sock, session = await self._entrance.let_in(sock)
            is_in = True
        except (InvalidMessage, OSError) as error:  # TimeoutError is one
            self._refused("accepted", error)
            reason = str(error) or "no proof of membership in time"
            self.reachability.turn_away(stranger.address, time.monotonic())
            if self._complaints.is_due(stranger.address, time.monotonic()):
                log.warning("stranger.not_a_member", address=stranger.address, reason=reason)
        finally:
            stranger.proving = None
            if not is_in:
                self._waiting.leave(stranger)
                sock.close()
        if is_in:
            self._begin(sock, stranger, session)

    def _drop(self, stranger: _Stranger, reason: str) -> None:
        if stranger.connection is not None:
            stranger.connection.close(reason)
        elif stranger.proving is not None:
            stranger.proving.cancel()

    async def _dial(self, peer: PeerId, host: str, port: int) -> None:
        is_connected = False
        sock: socket.socket | None = None
        try:
            async with asyncio.timeout(_DIAL_SECONDS):
                sock = await _connect(host, port)
                sock, session = await self._entrance.go_in(sock, peer)
            connection = self._begin(sock, _Stranger(host, peer, port), session)
            is_connected = True
            self.reachability.called(host, port, Outcome.REACHED, time.monotonic())
            connection.send(wire.Hello(wire.VERSION, self._me))
        except InvalidMessage as error:
            self.reachability.called(host, port, Outcome.STRANGER, time.monotonic())
            self._refused("dialled", error)
            log.warning("neighbour.not_a_member", peer=peer, host=host, port=port, reason=str(error))
        except (OSError, UnicodeError) as error:
            self.reachability.called(host, port, outcome_of(error), time.monotonic())
            log.info("neighbour.unreachable", peer=peer, host=host, port=port, error=repr(error))
        finally:
            if not is_connected:
                if sock is not None:
                    sock.close()
                self._missed(peer)

    def _begin(self, sock: socket.socket, stranger: _Stranger, session: Session | Unsealed) -> Connection:
        try:
            connection = Connection(sock, self, session, self._intake)
        except BaseException:
            self._waiting.leave(stranger)
            sock.close()
            raise
        stranger.connection, stranger.proved = connection, session.other
        loop = asyncio.get_running_loop()
        stranger.timer = loop.call_later(_GREETING_SECONDS, connection.close, "no hello in time")
        self._strangers[connection] = stranger
        return connection

    def _missed(self, peer: PeerId) -> None:
        """A dial has failed."""
        self._dialling.discard(peer)
        asyncio.get_running_loop().call_soon(self._tell_unreachable, peer)

    def _tell_unreachable(self, peer: PeerId) -> None:
        if peer not in self.all:
            self._tell(self._handler.unreachable, peer)

    def _tell_gone(self, peer: PeerId) -> None:
        reason = self._leaving.pop(peer, None)
        if reason is not None:
            self._tell(self._handler.gone, peer, reason)

    def _tell(self, method: Callable[..., None], peer: PeerId, *args: str) -> None:
        try:
            method(peer, *args)
        except Exception:
            log.exception("neighbours.handler_failed", peer=peer)

    def _greet(self, connection: Connection, event: wire.Event) -> None:
        if not isinstance(event, wire.Hello):
            raise InvalidMessage("the first message is not a hello")
        if event.version != wire.VERSION:
            raise InvalidMessage(f"version {event.version} is not spoken here (allowed: {wire.VERSION})")
        peer = parse_peer_id(event.peer)
        stranger = self._strangers[connection]
        dialled = stranger.dialled
        if peer == self._me or self.shuns(peer) or dialled not in (None, peer) or stranger.proved not in ("", peer):
            raise InvalidMessage("not a peer to talk to")
        if dialled is None:
            self._check_place(peer, stranger.address)
        self._known(connection)
        if dialled is None:
            connection.send(wire.Hello(wire.VERSION, self._me))
        else:
            self._dialling.discard(dialled)
        if connection.closed:
            return
        older = self.all.get(peer)
        if older is not None:
            initiator = self._me if dialled is not None else peer
            if initiator != min(self._me, peer):
                connection.close("connected already")
                return
            older.close("connected twice")
        self.all[peer] = connection
        self._peers[connection] = peer
        self.reachability.met(peer, stranger.address, None if dialled is None else stranger.port)
        if dialled is None:
            self._addresses[connection] = group_of(stranger.address)
            self.reachability.came(time.monotonic())
        connection.greeted()
        self._tell_gone(peer)  # of an older connection, whose end may not have been told yet
        self._handler.arrived(peer)

    def _check_place(self, peer: PeerId, address: str) -> None:
        """Raises `InvalidMessage` where a caller is one too many, or takes the place of another one."""
        older = self.all.get(peer)
        if older is None and len(self._peers) >= self._max_connections:
            raise InvalidMessage("there are as many neighbours as there may be")
        if not self._entrance.is_open:
            return
        group = group_of(address)
        if older is not None and self._addresses.get(older, group) != group:
            raise InvalidMessage("a peer of this name is connected from another address")
        share = max(self._max_connections // _SHARE_OF_ADDRESS, 1)
        if older is None and list(self._addresses.values()).count(group) >= share:
            raise InvalidMessage("too many neighbours from one address")

    def _refused(self, direction: str, error: Exception) -> None:
        kinds = ((NotAMember, "not_a_member"), (TimeoutError, "silent"), (InvalidMessage, "protocol"))
        reason = next((word for kind, word in kinds if isinstance(error, kind)), "lost")
        self.refusals[direction, reason] += 1

    def _known(self, connection: Connection) -> _Stranger | None:
        """A connection is no stranger's any more."""
        stranger = self._strangers.pop(connection, None)
        if stranger is not None:
            self._waiting.leave(stranger)
            if stranger.timer is not None:
                stranger.timer.cancel()
        return stranger

    # --- what connections tell (peer.connection.Handler) ----------------------------------------------------------

    def accept(self, connection: Connection, piece: wire.Piece) -> bytearray | None:
        """Memory for a piece."""
        peer = self._peers.get(connection)
        if peer is None:
            raise InvalidMessage("a piece before the hello")
        return self._handler.accept(peer, piece)

    def received(self, connection: Connection, event: wire.Event) -> None:
        """A message: the first one is a greeting."""
        peer = self._peers.get(connection)
        if peer is None:
            self._greet(connection, event)
        else:
            self._handler.said(peer, event)

    def closed(self, connection: Connection, reason: str) -> None:
        """A connection is over; the handler is told of it by the event loop, since it may be what has called."""
        stranger = self._known(connection)
        if stranger is not None:
            self.refusals["accepted" if stranger.dialled is None else "dialled", "no_hello"] += 1
            if stranger.dialled is not None:
                hint = "is `cluster` of the configuration the same on both sides?"
                log.warning(
                    "neighbour.did_not_greet", peer=stranger.dialled, host=stranger.address, reason=reason, hint=hint
                )
                self._missed(stranger.dialled)
            elif self._complaints.is_due(stranger.address, time.monotonic()):
                log.info("stranger.dropped", address=stranger.address, reason=reason)
        peer = self._peers.pop(connection, None)
        if peer is not None:
            log.info("neighbour.gone", peer=peer, reason=reason)
            del self.all[peer]
            self._addresses.pop(connection, None)
            self._leaving[peer] = reason
            asyncio.get_running_loop().call_soon(self._tell_gone, peer)


async def _connect(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, kind, proto, _, address = found[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock
