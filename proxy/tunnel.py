"""Bytes between a client and another host, as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

_CONNECT_SECONDS = 5.0


class Tunnel:
    """Two connections, each of which is given what comes by the other, ends included."""

    def __init__(self, idle_timeout: float) -> None:
        """`idle_timeout`: seconds without a byte in either direction, after which both are cut."""
        self._idle_timeout = idle_timeout
        self.client, self.host = _Side(self), _Side(self)
        self.client.other, self.host.other = self.host, self.client
        self._loop = asyncio.get_running_loop()
        self._moved_at = self._loop.time()
        self._ended = asyncio.Event()

    async def connect(self, addresses: Sequence[str], port: int) -> None:
        """Reach the host at one of its addresses; raises `OSError` or `TimeoutError` of the last one."""
        failure: OSError = ConnectionError("there is no address")
        for address in addresses:
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    await self._loop.create_connection(lambda: self.host, address, port)
            except OSError as error:  # `TimeoutError` is one
                failure = error
            else:
                return
        raise failure

    async def run(self) -> None:
        """Until both ends are closed, or nothing has moved for the time that it may take."""
        try:
            while not self._ended.is_set():
                left = self._moved_at + self._idle_timeout - self._loop.time()
                if left <= 0:
                    return
                try:
                    async with asyncio.timeout(left):
                        await self._ended.wait()
                except TimeoutError:
                    continue
        finally:
            self.abort()

    def abort(self) -> None:
        """Cut both connections."""
        for side in (self.client, self.host):
            if side.transport is not None:
                side.transport.abort()

    def moved(self) -> None:
        """Bytes have come."""
        self._moved_at = self._loop.time()

    def side_ended(self) -> None:
        """One of both connections is gone; the other one ends when it has sent what it has."""
        for side in (self.client, self.host):
            if side.transport is not None and not side.is_gone:
                side.transport.close()
        if self.client.is_gone and self.host.is_gone:
            self._ended.set()


class _Side(asyncio.Protocol):
    """One connection of a tunnel."""

    other: _Side

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._said_all = False
        self.transport: asyncio.Transport | None = None
        self.is_gone = False
        self.received = 0
        """Bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._tunnel.moved()
        if self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def eof_received(self) -> bool:
        """True: this connection stays open for what the other one has to say."""
        self._said_all = True
        other = self.other
        if other.transport is not None and not other.transport.is_closing():
            other.transport.write_eof()
        return not other._said_all

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_gone = True
        self._tunnel.side_ended()
