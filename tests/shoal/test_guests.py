"""Who is admitted to a port, and who takes too little of what is sent to him."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.guests import LEAST_RATE, Guest, Guests, Limits, Pace

PATIENCE = 60.0


class Wire(asyncio.Transport):
    """A connection from an address, in memory."""

    def __init__(self, *peer: Any) -> None:
        super().__init__({"peername": peer or None})
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


class Port:
    """A port with these limits; everybody who is admitted is spoken with by a protocol that says nothing."""

    def __init__(self, connections: int, per_address: int, others: int = 0) -> None:
        self.refused = 0
        self.guests = Guests(Limits(connections, per_address, PATIENCE), b"no", self._refuse, lambda: others)

    def _refuse(self) -> None:
        self.refused += 1

    def connect(self, address: str) -> Guest:
        guest = Guest(self.guests, lambda _: asyncio.Protocol())
        guest.connection_made(Wire(address, 1234))
        return guest


async def test_as_many_as_may_come_are_admitted() -> None:
    port = Port(5, 5, others=2)
    first, *_ = [port.connect("127.0.0.1") for _ in range(3)]
    turned_away = port.connect("127.0.0.1")
    turned_away.data_received(b"GET / HTTP/1.1\r\n")
    assert (len(port.guests), port.refused) == (3, 1)
    assert isinstance(turned_away.transport, Wire)
    assert (turned_away.transport.written, turned_away.transport.closed) == (b"no", True)
    turned_away.connection_lost(None)
    first.connection_lost(None)
    port.connect("127.0.0.1")
    assert (len(port.guests), port.refused) == (3, 1)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
async def test_one_address_gets_its_share(first: str, second: str, same: bool) -> None:
    port = Port(10, 2)
    held = [port.connect(first), port.connect(first)]
    port.connect(second)
    assert port.refused == same
    held[0].depart()
    held[0].connection_lost(None)
    port.connect(first)
    assert port.refused == same


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
async def test_the_nodes_own_clients_have_no_share(address: str) -> None:
    port = Port(10, 1)
    for _ in range(10):
        port.connect(address)
    assert port.refused == 0


def test_a_share_leaves_room_for_others() -> None:
    for connections in (1, 4, 60, 231, 4096):
        limits = Limits.shared(connections, PATIENCE)
        assert 1 <= limits.per_address <= max(1, connections // 4)


@pytest.mark.parametrize(
    ("rate", "waits", "slow"),
    [
        (0, True, True),
        (LEAST_RATE - 1, True, True),
        (1 / 50, True, True),
        (LEAST_RATE, True, False),
        (1e9, True, False),
        (0, False, False),
    ],
)
def test_who_takes_less_than_the_least_rate_of_what_waits_is_slow(rate: float, waits: bool, slow: bool) -> None:
    pace = Pace()
    looks = [pace.is_slow(now, int(now * rate), waits, PATIENCE) for now in range(0, 121, 15)]
    assert any(looks) is slow
    assert not any(looks[:4])


def test_who_has_taken_all_at_times_is_not_slow() -> None:
    pace = Pace()
    assert not any(pace.is_slow(now, 0, now % 60 != 0, PATIENCE) for now in range(0, 600, 15))


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(15 * LEAST_RATE, 10**9)), max_size=50))
def test_who_keeps_the_rate_is_never_slow(looks: list[tuple[int, int]]) -> None:
    pace, now, taken = Pace(), 0.0, 0
    for seconds, size in looks:
        now, taken = now + seconds, taken + size * 2
        assert not pace.is_slow(now, taken, True, PATIENCE)
