"""What this peer has learnt of the ways between peers: whom it could not call, who has called it, where they are.
No I/O."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import NamedTuple

from shoal.fields import authority
from shoal.messages import InvalidMessage
from shoal.recent import Recent
from supernode.protocol import Outcome, PeerId

_MAX_FAILURES = 256
"""Addresses that could not be called."""
_MAX_PLACES = 4096
"""Peers that this one was connected to."""
_SHOWN_DIGITS = 8
"""Of the identity of a peer that has called."""


class Place(NamedTuple):
    """Where a peer is."""

    host: str
    """Of its last connection."""
    words: str
    """For people: where it takes connections, or where it has called from and how its identity begins."""


@dataclass(slots=True)
class Failure:
    """An address that could not be called since `since`, in seconds of a monotonic clock as all times here are."""

    outcome: str
    since: float
    last: float
    times: int = 1


class Reachability:
    """Calls in both directions. An address that was reached has not failed any more."""

    def __init__(self) -> None:
        self.failures: Recent[tuple[str, int], Failure] = Recent(_MAX_FAILURES)
        """By host and port."""
        self.places: Recent[PeerId, Place] = Recent(_MAX_PLACES)
        """Where peers are that this one is or was connected to."""
        self.visitors = 0
        """Calls of other members that came to this peer."""
        self.visited_at: float | None = None
        """When the last of them came."""
        self.turned_away: tuple[str, float] | None = None
        """From which address somebody came last who did not prove to be a member, and when."""

    def met(self, peer: PeerId, host: str, port: int | None) -> None:
        """A peer is connected; `port`: where it was called, None where it has called."""
        known = self.places.get(peer)
        if port is not None:
            words = authority(host, port)
        else:
            words = f"{host} ({peer[:_SHOWN_DIGITS]})" if known is None else known.words
        self.places.put(peer, Place(host, words))

    def words(self, peer: PeerId) -> str:
        """Where a peer is, for people; its identity alone where it was not connected lately."""
        known = self.places.get(peer)
        return peer if known is None else known.words

    def called(self, host: str, port: int, outcome: str, now: float) -> None:
        """This peer has called another one; `outcome` is one of the values of `Outcome`."""
        known = self.failures.get((host, port))
        if outcome == Outcome.REACHED:
            self.failures.pop((host, port), None)
        elif known is None:
            self.failures.put((host, port), Failure(outcome, now, now))
        else:
            known.outcome, known.last, known.times = outcome, now, known.times + 1

    def came(self, now: float) -> None:
        """Another member has called this peer."""
        self.visitors += 1
        self.visited_at = now

    def turn_away(self, address: str, now: float) -> None:
        """Somebody has called who is no member."""
        self.turned_away = address, now


def outcome_of(error: Exception) -> str:
    """What an error of a call says, as a value of `Outcome`."""
    if isinstance(error, InvalidMessage):
        return Outcome.STRANGER
    if isinstance(error, TimeoutError):
        return Outcome.SILENT
    if isinstance(error, socket.gaierror | UnicodeError):
        return Outcome.UNRESOLVED
    return Outcome.REFUSED if isinstance(error, ConnectionError) else Outcome.UNROUTED
