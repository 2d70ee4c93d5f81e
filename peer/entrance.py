"""How a connected socket becomes a connection between two members of the cluster."""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import struct

from shoal.handshake import (
    MAX_HANDSHAKE_SIZE,
    NONCE_SIZE,
    UNSEALED,
    Initiator,
    NotAMember,
    Responder,
    Session,
    Unsealed,
)
from shoal.membership import Membership
from supernode.protocol import PeerId

_PREFIX = struct.Struct(">I")
_UNLIKE = "is `cluster` of the configuration the same on both sides?"

Entered = tuple[socket.socket, Session | Unsealed]
"""The socket to go on with, which is another one where TLS is on it, and what seals messages on it."""


class Entrance:
    """Proves to each other side that this node is a member, and has it prove that it is one.

    What it raises (`NotAMember`, `OSError`) leaves the socket to be closed by its caller, as cancellation does.
    """

    def __init__(self, membership: Membership, me: PeerId) -> None:
        self._membership = membership
        self._me = me

    @property
    def is_open(self) -> bool:
        """Whether everybody is taken for a member, so that there is nothing to prove."""
        return self._membership.is_open

    async def let_in(self, sock: socket.socket) -> Entered:
        """Of a connection that was accepted."""
        tls, keys = self._membership.tls, self._membership.keys
        if tls is not None:
            return await _secured(tls.of_peer, sock, is_server=True), UNSEALED
        if not keys:
            return sock, UNSEALED
        handshake = Responder(keys, "peer", self._me, secrets.token_bytes(NONCE_SIZE))
        while handshake.session is None:
            await _send(sock, handshake.received(await _receive(sock)))
        return sock, handshake.session

    async def go_in(self, sock: socket.socket, peer: PeerId) -> Entered:
        """Of a connection that was made to `peer`."""
        tls, keys = self._membership.tls, self._membership.keys
        if tls is not None:
            return await _secured(tls.to_peer, sock, is_server=False), UNSEALED
        if not keys:
            return sock, UNSEALED
        handshake = Initiator(keys[0], "peer", self._me, peer, secrets.token_bytes(NONCE_SIZE))
        message: bytes | None = handshake.opening()
        while message is not None:
            await _send(sock, message)
            message = handshake.received(await _receive(sock))
        assert handshake.session is not None
        return sock, handshake.session


async def _send(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, _PREFIX.pack(len(data)) + data)


async def _receive(sock: socket.socket) -> bytes:
    (length,) = _PREFIX.unpack(await _exactly(sock, _PREFIX.size))
    if length > MAX_HANDSHAKE_SIZE:
        raise NotAMember(f"no message of a handshake: {_UNLIKE}")
    return await _exactly(sock, length)


async def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await asyncio.get_running_loop().sock_recv(sock, count - len(data))
        if not more:
            raise NotAMember(f"the other side has ended the handshake: {_UNLIKE}")
        data += more
    return data


async def _secured(context: ssl.SSLContext, sock: socket.socket, *, is_server: bool) -> ssl.SSLSocket:
    secured = context.wrap_socket(sock, server_side=is_server, do_handshake_on_connect=False)
    try:
        await _shaken(secured)
    except ssl.SSLError as error:
        secured.close()
        raise NotAMember(f"no TLS between members: {error.reason or error}; {_UNLIKE}") from None
    except BaseException:
        secured.close()
        raise
    return secured


async def _shaken(sock: ssl.SSLSocket) -> None:
    loop, fd = asyncio.get_running_loop(), sock.fileno()
    while True:
        ready: asyncio.Future[None] = loop.create_future()
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            loop.add_reader(fd, _set, ready)
            try:
                await ready
            finally:
                loop.remove_reader(fd)
        except ssl.SSLWantWriteError:
            loop.add_writer(fd, _set, ready)
            try:
                await ready
            finally:
                loop.remove_writer(fd)
        else:
            return


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
