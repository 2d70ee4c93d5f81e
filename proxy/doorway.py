"""The first bytes of a connection, which tell whether it is a client of the mirror or one that wants a tunnel."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import cast

from proxy.errors import ErrorAnswer
from shoal.guests import Guest

MAX_HEAD = 16 << 10
"""Bytes of a CONNECT request, without its end."""

_METHOD = b"CONNECT "
_END = b"\r\n\r\n"
_REQUEST_LINE = re.compile(rb"CONNECT ([!-~]{1,512}) HTTP/1\.[01]")
_ESTABLISHED = b"HTTP/1.1 200 Connection Established\r\n\r\n"
_MAX_EARLY = 64 << 10
"""Bytes that are kept of what a client sends before it is told that its tunnel stands."""

_MAX_PHRASE = 300


class BadConnect(ValueError):
    """What begins as a CONNECT request and is none."""


def parse_connect(head: bytes) -> str:
    """The target that a CONNECT request names, as it stands there; raises `BadConnect`."""
    match = _REQUEST_LINE.fullmatch(head.partition(b"\r\n")[0])
    if match is None:
        raise BadConnect("not a CONNECT request of HTTP/1.1")
    return match[1].decode("ascii")


class Doorway(asyncio.Protocol):
    """A connection until it is known what it is for.

    Whatever is not CONNECT goes to a protocol of the HTTP server, with the bytes that have come. The head of a CONNECT
    request is kept, `connect` is called, and its callee takes the transport over or refuses.
    """

    def __init__(
        self,
        guest: Guest,
        http: Callable[[], asyncio.BaseProtocol],
        connect: Callable[[Doorway], None],
        left: Callable[[Doorway], None],
        patience: float,
    ) -> None:
        """`guest`: the connection. `left` is called when it has gone on to the HTTP server or ended.

        `patience`: seconds until then or until a CONNECT request is whole.
        """
        self.guest = guest
        self._http = http
        self._connect = connect
        self._left = left
        self._patience = patience
        self._received = bytearray()
        self._connecting = False
        self._ended = False
        self.head = b""
        """The CONNECT request, without its end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._giving_up = asyncio.get_running_loop().call_later(self._patience, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._connecting:
            if len(self._received) > _MAX_EARLY:
                self.transport.pause_reading()
        elif not self._received.startswith(_METHOD[: len(self._received)]):
            self.hand_over(self._http())
        elif _END in self._received[: MAX_HEAD + len(_END)]:
            self._giving_up.cancel()
            head, _, early = bytes(self._received).partition(_END)
            self.head, self._received, self._connecting = head, bytearray(early), True
            self._connect(self)
        elif len(self._received) >= MAX_HEAD + len(_END):
            self.refuse(431, "the head of the request is too large")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    @property
    def peer(self) -> str:
        """The client's address."""
        name = self.transport.get_extra_info("peername")
        return str(name[0]) if isinstance(name, tuple) else ""

    @property
    def early(self) -> bytes:
        """What the client has sent behind the request."""
        return bytes(self._received)

    def establish(self) -> None:
        """Tell the client that its tunnel stands."""
        self.transport.write(_ESTABLISHED)

    def hand_over(self, protocol: asyncio.BaseProtocol) -> None:
        """Let `protocol` have the connection, and what has come by it."""
        self._end()
        received = bytes(self._received)
        self._received.clear()
        self.guest.become(protocol)
        if received:
            cast("asyncio.Protocol", protocol).data_received(received)

    def refuse(self, status: int, reason: str) -> None:
        """Answer with an error and end the connection.

        The reason stands in the status line too: clients written in Go, docker among them, show nothing else of a
        proxy's refusal.
        """
        if self.transport.is_closing():
            return
        body = ErrorAnswer(status, "DENIED" if status == 403 else "UNAVAILABLE", reason).body
        shown = "".join(char if " " <= char <= "~" else "?" for char in reason)[:_MAX_PHRASE]
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}: {shown}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _end(self) -> None:
        self._giving_up.cancel()
        if not self._ended:
            self._ended = True
            self._left(self)


class Threshold(asyncio.Protocol):
    """A connection inside TLS until its first byte has come; the HTTP server gets it then.

    A client that does not trust the certificate says so before it sends anything, mostly when the handshake is over
    for the server already.
    """

    def __init__(self, http: Callable[[], asyncio.BaseProtocol], unused: Callable[[Exception | None], None]) -> None:
        """`unused` is called where the connection ends behind the handshake and without a byte."""
        self._http = http
        self._unused = unused
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._patience: asyncio.TimerHandle | None = None

    def begin(self, transport: asyncio.Transport, patience: float) -> None:
        """The handshake is over; bytes may have come already. `patience`: seconds until the first one."""
        self._transport = transport
        if self._received:
            self._hand_over()
        else:
            self._patience = asyncio.get_running_loop().call_later(patience, transport.abort)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._transport is not None:
            self._hand_over()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        if self._transport is not None:
            self._unused(exc)

    def _hand_over(self) -> None:
        assert self._transport is not None
        if self._patience is not None:
            self._patience.cancel()
        protocol = cast("asyncio.Protocol", self._http())
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(bytes(self._received))
