"""The supernode's port: who may wait there before having said who it is, and TLS where the cluster has certificates."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Self

import structlog
from aiohttp import web

from shoal.membership import Membership
from shoal.strangers import Complaints, Strangers

log = structlog.get_logger()

MAX_STRANGERS, MAX_STRANGERS_OF_ADDRESS = 4096, 1024
"""Connections that have not said who they are; all peers come back at once to a supernode that was started again."""

_STRANGERS_SHARE = 4
"""The part of all file descriptors that strangers may take, and of strangers those of one address."""
_BACKLOG = 1024
_TLS_SECONDS = 5.0
_MAX_STRANGER_BYTES, _LOOK_SECONDS = 256 << 10, 0.5
"""What a stranger may send in all, and how often that is looked at: a message of what is not a member's yet is read to
its end before anybody sees how long it is."""
_TCP_INFO_SIZE, _RECEIVED_OFFSET = 152, 128
"""Of `struct tcp_info` (linux/tcp.h): bytes up to `tcpi_min_rtt`, and the place of `tcpi_bytes_received`."""
_LISTEN_REST_SECONDS = 0.5
"""After an error of the listening socket, such as no file descriptor being left."""
_USER_TIMEOUT_MS = 20_000

Place = tuple[str, int]
"""Address and port from which a connection comes."""


def strangers_for(descriptors: int) -> Strangers[Place]:
    """Places for strangers in a process that may have so many file descriptors."""
    places = min(descriptors // _STRANGERS_SHARE, MAX_STRANGERS)
    return Strangers(places, min(max(places // _STRANGERS_SHARE, 1), MAX_STRANGERS_OF_ADDRESS))


class Door:
    """Accepts connections for an HTTP server, as an async context manager; `port` is known inside."""

    def __init__(
        self,
        server: web.Server,
        host: str,
        port: int,
        membership: Membership,
        descriptors: int,
        refused: Callable[[], None],
    ) -> None:
        """`refused` is told of each who cannot speak TLS as members do."""
        self._server = server
        self._refused = refused
        self._host = host
        self.port = port
        self._membership = membership
        self._strangers = strangers_for(descriptors)
        self._complaints = Complaints()
        self._tasks: dict[Place, asyncio.Task[None]] = {}
        """Connections that are being made."""
        self._transports: dict[Place, tuple[asyncio.Transport, socket.socket]] = {}
        """Those of strangers that stand, with their sockets."""

    async def __aenter__(self) -> Self:
        """Raises `OSError`."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        self._listener = socket.create_server((self._host, self.port), family=family, backlog=_BACKLOG)
        self._listener.setblocking(False)
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
        self.port = self._listener.getsockname()[1]
        self._own = [asyncio.create_task(self._listen()), asyncio.create_task(self._look())]
        return self

    async def __aexit__(self, *_: object) -> None:
        """No connection is accepted any more; those that stand are the HTTP server's."""
        tasks = [*self._own, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    def known(self, place: Place) -> None:
        """Who comes from there has said who it is, and counts as a stranger no more."""
        self._strangers.leave(place)
        self._transports.pop(place, None)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(self._listener)
                self._accepted(sock, (address[0], address[1]))
            except Exception:
                log.exception("listener.failed")
                await asyncio.sleep(_LISTEN_REST_SECONDS)

    def _accepted(self, sock: socket.socket, place: Place) -> None:
        self._forget_those_gone()
        self.known(place)
        leaving = self._strangers.enter(place, place[0])
        if leaving is not None:
            self._drop(leaving, "too many")
        task = asyncio.create_task(self._let_in(sock, place))
        self._tasks[place] = task
        task.add_done_callback(lambda task: self._made(task, sock, place))

    def _forget_those_gone(self) -> None:
        for place in [place for place, (transport, _) in self._transports.items() if transport.is_closing()]:
            self.known(place)

    async def _look(self) -> None:
        """Cut those who send much before they have said who they are."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._forget_those_gone()
            for place, (_, sock) in list(self._transports.items()):
                if _received(sock) > _MAX_STRANGER_BYTES:
                    self._drop(place, "it sends too much")

    def _drop(self, place: Place, reason: str) -> None:
        log.debug("stranger.dropped", address=place[0], reason=reason)
        self._strangers.leave(place)
        if place in self._tasks:
            self._tasks[place].cancel()
        if place in self._transports:
            transport, _ = self._transports.pop(place)
            transport.abort()

    def _made(self, task: asyncio.Task[None], sock: socket.socket, place: Place) -> None:
        if self._tasks.get(place) is task:
            del self._tasks[place]
        if task.cancelled():  # maybe before it has begun
            sock.close()
            self._strangers.leave(place)
        elif task.exception() is not None:
            log.error("door.failed", exc_info=task.exception())

    async def _let_in(self, sock: socket.socket, place: Place) -> None:
        contexts = self._membership.tls
        tls = None if contexts is None else contexts.of_supernode
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                self._server, sock, ssl=tls, ssl_handshake_timeout=None if tls is None else _TLS_SECONDS
            )
        except OSError as error:
            self._refused()
            if self._complaints.is_due(place[0], asyncio.get_running_loop().time()):
                log.warning("stranger.not_a_member", address=place[0], reason=f"no TLS: {str(error) or repr(error)}")
            sock.close()
            self._strangers.leave(place)
            return
        if place in self._strangers:
            self._transports[place] = transport, sock


def _received(sock: socket.socket) -> int:
    """Bytes that have come over a connection; 0 where it has ended."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    except OSError:
        return 0
    (count,) = struct.unpack_from("=Q", info, _RECEIVED_OFFSET)
    return int(count)
