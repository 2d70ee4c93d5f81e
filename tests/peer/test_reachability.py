from __future__ import annotations

import socket

import pytest

from peer.reachability import Reachability, outcome_of
from shoal.handshake import NotAMember
from supernode.protocol import Outcome


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TimeoutError(), Outcome.SILENT),
        (ConnectionRefusedError(), Outcome.REFUSED),
        (ConnectionResetError(), Outcome.REFUSED),
        (OSError(113, "No route to host"), Outcome.UNROUTED),
        (socket.gaierror(-2, "unknown"), Outcome.UNRESOLVED),
        (UnicodeError("a label too long"), Outcome.UNRESOLVED),
        (NotAMember("no"), Outcome.STRANGER),
    ],
)
def test_errors_of_a_call_say_what_is_in_the_way(error: Exception, outcome: str) -> None:
    assert outcome_of(error) == outcome


def test_an_address_fails_from_its_first_failure_on_until_it_is_reached() -> None:
    ways = Reachability()
    ways.called("a", 1, Outcome.REFUSED, 10.0)
    ways.called("a", 1, Outcome.SILENT, 20.0)
    failure = ways.failures["a", 1]
    assert (failure.outcome, failure.since, failure.last, failure.times) == (Outcome.SILENT, 10.0, 20.0, 2)
    ways.called("a", 1, Outcome.REACHED, 30.0)
    assert not ways.failures


def test_the_book_of_failures_is_bounded() -> None:
    ways = Reachability()
    for number in range(1000):
        ways.called("a", number, Outcome.SILENT, float(number))
    assert len(ways.failures) == 256
