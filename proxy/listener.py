"""The port that clients connect to: how many may, and how long each may leave what it is sent untaken."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import cast

from aiohttp import web

from proxy.connects import Connects
from proxy.errors import ErrorAnswer
from proxy.metrics import ProxyMetrics

_BACKLOG = 1024
"""Connections that wait to be accepted: docker opens one for each request."""

_REFUSAL_SECONDS = 1.0
"""How long a connection beyond the limit may take to send the request that it is refused."""

_REFUSAL = ErrorAnswer(503, "UNAVAILABLE", "this mirror has as many connections as it may have")


async def listen(
    server: web.Server,
    host: str,
    port: int,
    connections: int,
    client_timeout: float,
    metrics: ProxyMetrics,
    connects: Connects | None = None,
) -> asyncio.Server:
    """Accept connections for `server`, up to a number of them; the next ones are refused. Raises `OSError`.

    With `connects`, connections that begin with a CONNECT request are for it.

    The kernel cuts a connection of which no byte was taken for `client_timeout` seconds while some wait to be sent
    (`TCP_USER_TIMEOUT`, which accepted connections inherit): whatever it is that waits, a write or a sendfile, ends
    with an error then.
    """

    def accept() -> asyncio.BaseProtocol:
        held = len(server.connections) + (connects.held if connects is not None else 0)
        if held < connections:
            return server() if connects is None else connects.doorway(server)
        metrics.refused.inc()
        return _Refusal()

    listening = await asyncio.get_running_loop().create_server(
        cast("Callable[[], asyncio.Protocol]", accept), host, port, backlog=_BACKLOG
    )
    for each in listening.sockets:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(client_timeout * 1000))
    return listening


class _Refusal(asyncio.Protocol):
    """Answers one request with the API's error, and ends."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._giving_up = asyncio.get_running_loop().call_later(_REFUSAL_SECONDS, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        body = _REFUSAL.body
        head = (
            f"HTTP/1.1 {_REFUSAL.status} {HTTPStatus(_REFUSAL.status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._giving_up.cancel()
