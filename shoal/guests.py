"""Connections to a port that strangers may reach: how many in all and from one address, and who takes too little.

A client that takes nothing at all is cut by the kernel (`shoal.listener`). A byte now and then would keep it for ever:
here it is cut where it takes less than a least rate of what waits for it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from shoal.fields import is_loopback
from shoal.strangers import group_of

LEAST_RATE = 1024
"""Bytes/s, over the patience that there is with a client: at that rate no image is pulled by anybody who wants it."""

_REFUSAL_SECONDS = 1.0
"""How long a connection beyond the limit may take to send the request that it is refused."""

_INFO_SIZE, _ACKED_OFFSET, _UNSENT_OFFSET = 148, 120, 144
"""Of `struct tcp_info` (linux/tcp.h): bytes up to and including `tcpi_notsent_bytes`; the places of it and of
`tcpi_bytes_acked`."""


_MOST_OF_ONE = 128
"""Connections from one address: more than the clients of a machine have use for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a port has for those who connect to it."""

    connections: int
    per_address: int
    """From one address; loopback is not counted."""
    patience: float
    """Seconds for which somebody may take no byte, or fewer than the least rate."""

    @classmethod
    def shared(cls, connections: int, patience: float) -> Limits:
        """One address gets a quarter, and never more than it has use for."""
        return cls(connections, max(1, min(connections // 4, _MOST_OF_ONE)), patience)


class Guests:
    """All connections of a port."""

    def __init__(
        self, limits: Limits, refusal: bytes, refused: Callable[[], None], others: Callable[[], int] = lambda: 0
    ) -> None:
        """`refusal` is answered to who is not admitted, and `refused` told. `others`: connections counted elsewhere."""
        self.refusal = refusal
        self.patience = limits.patience
        self._limits = limits
        self._refused = refused
        self._others = others
        self._guests: set[Guest] = set()
        self._addresses: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._guests)

    def enter(self, guest: Guest) -> bool:
        """Whether a connection is admitted; it leaves in the end."""
        address = guest.address
        full = len(self._guests) + self._others() >= self._limits.connections
        if full or (address and self._addresses[address] >= self._limits.per_address):
            self._refused()
            return False
        self._guests.add(guest)
        self._addresses[address] += 1
        return True

    def leave(self, guest: Guest) -> None:
        """The connection is gone, or counted elsewhere from now on."""
        if guest not in self._guests:
            return
        self._guests.discard(guest)
        self._addresses[guest.address] -= 1
        if not self._addresses[guest.address]:
            del self._addresses[guest.address]

    def look(self, now: float) -> None:
        """Cut the connections that have taken too little of what waits for them."""
        for guest in list(self._guests):
            if guest.is_slow(now, self.patience):
                guest.transport.abort()


class Pace:
    """How much somebody has taken while something waited for him. No I/O."""

    def __init__(self) -> None:
        self._since: tuple[float, int] | None = None

    def is_slow(self, now: float, taken: int, waits: bool, patience: float) -> bool:
        """Whether fewer bytes than the least rate were taken for `patience` seconds, in each look of which some waited.

        `taken`: bytes since the beginning of the connection.
        """
        if not waits:
            self._since = None
            return False
        if self._since is None:
            self._since = now, taken
            return False
        began, before = self._since
        if now - began < patience:
            return False
        self._since = now, taken
        return taken - before < LEAST_RATE * (now - began)


class Relay(asyncio.Protocol):
    """Passes on to another protocol what happens to a connection between its beginning and its end."""

    _protocol: asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()


class Guest(Relay):
    """One connection, from its first moment to its last: passes on to a protocol what happens to it."""

    def __init__(self, guests: Guests, make: Callable[[Guest], asyncio.BaseProtocol]) -> None:
        """`make` gives the protocol, where the connection is admitted."""
        self._guests = guests
        self._make = make
        self._pace = Pace()
        self.address = ""
        """Whose it is, as far as numbers are counted; empty for this machine itself."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.address = _counted(self.transport.get_extra_info("peername"))
        admitted = self._guests.enter(self)
        self.become(self._make(self) if admitted else _Refusal(self._guests.refusal))

    def become(self, protocol: asyncio.BaseProtocol) -> None:
        """Let `protocol` have the connection from now on."""
        self._protocol = cast("asyncio.Protocol", protocol)
        protocol.connection_made(self.transport)

    def depart(self) -> None:
        """The transport gets another protocol, so that its end will not be heard of here."""
        self._guests.leave(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._guests.leave(self)
        self._protocol.connection_lost(exc)

    def is_slow(self, now: float, patience: float) -> bool:
        """Whether the client has taken too little; called now and again."""
        connection: socket.socket = self.transport.get_extra_info("socket")
        try:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_SIZE)
        except OSError:  # it is ending
            return False
        (taken,) = struct.unpack_from("=Q", info, _ACKED_OFFSET)
        (unsent,) = struct.unpack_from("=I", info, _UNSENT_OFFSET)
        return self._pace.is_slow(now, taken, unsent > 0 or self.transport.get_write_buffer_size() > 0, patience)


class _Refusal(asyncio.Protocol):
    """Answers one request, whatever it is, and ends."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._giving_up = asyncio.get_running_loop().call_later(_REFUSAL_SECONDS, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._answer)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._giving_up.cancel()


def _counted(peer: object) -> str:
    """The address under which a connection is counted; empty for loopback."""
    address = str(peer[0]) if isinstance(peer, tuple) else ""
    return "" if is_loopback(address) else group_of(address)
