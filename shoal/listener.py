"""A port that is listened on: who is admitted, and how long each may leave what it is sent untaken."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Self, cast

from shoal.guests import Guest, Guests

_BACKLOG = 1024
"""Connections that wait to be accepted: docker opens one for each request."""

_LOOKS = 4
"""How often a connection is looked at within the patience that there is with it."""


class Listener:
    """Accepts connections, as an async context manager; `port` is known inside. Leaving it lets running ones be.

    The kernel cuts a connection of which no byte was taken for the patience that there is with it while some wait to
    be sent (`TCP_USER_TIMEOUT`, which accepted connections inherit): whatever it is that waits, a write or a sendfile,
    ends with an error then. Who takes less than the least rate is cut here.
    """

    def __init__(
        self,
        make: Callable[[Guest], asyncio.BaseProtocol],
        host: str,
        port: int,
        guests: Guests,
    ) -> None:
        """`make` gives the protocol of a connection that is admitted to `guests`."""
        self._make = make
        self._host = host
        self.port = port
        self._guests = guests

    async def __aenter__(self) -> Self:
        """Raises `OSError`."""
        loop = asyncio.get_running_loop()
        try:
            self._listening = await loop.create_server(
                cast("Callable[[], asyncio.Protocol]", lambda: Guest(self._guests, self._make)),
                self._host,
                self.port,
                backlog=_BACKLOG,
            )
        except socket.gaierror as error:  # which does not say of what
            raise OSError(f"cannot listen at {self._host!r}: {error.strerror}") from None
        for each in self._listening.sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._guests.patience * 1000))
        self.port = self._listening.sockets[0].getsockname()[1]
        self._watching = asyncio.create_task(self._watch(), name="slow clients")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)

    def close(self) -> None:
        """Accept no connections any more."""
        self._listening.close()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._guests.patience / _LOOKS)
            self._guests.look(loop.time())
