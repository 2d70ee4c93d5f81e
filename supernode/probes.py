"""Whether a peer is reached from outside: two other members connect to it when it asks. No I/O and no clock."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from supernode.allowance import Allowance
from supernode.handout import Contact
from supernode.protocol import OUTCOMES, Call, PeerId, Probe, Probed, Visit, Visited

_VISITORS = 2
_DRAWN = 16
"""Members among which visitors are looked for: better ones at other hosts than the peer's own."""
_ANSWER_SECONDS = 3.0
"""How long visitors have; they give up a connection after 2.5 s."""
_EACH = 2.0, 0.2
"""Probes of one peer at once, and each second: each costs two members a connection."""
_ALL = 32.0, 16.0
"""Probes of all peers together."""

Reply = tuple[PeerId, Probed | Visit]


@dataclass(slots=True, eq=False)
class _Probe:
    """One question that is underway."""

    asker: PeerId
    query: int
    contact: Contact
    elsewhere: int
    deadline: float
    visits: dict[int, tuple[PeerId, Contact]] = field(default_factory=dict)
    """Visitors that have not answered, by the number of the visit."""
    calls: list[Call] = field(default_factory=list)


class Probes:
    """The probes of a cluster. What a method returns is to be sent."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._all = Allowance.of(*_ALL, 0.0)
        self._allowances: dict[PeerId, Allowance] = {}
        """Of those that answer `Visit`, who alone may ask."""
        self._running: list[_Probe] = []
        self._visits = 0

    def join(self, peer: PeerId, now: float) -> None:
        """A peer is here that answers `Visit`."""
        self._allowances[peer] = Allowance.of(*_EACH, now)

    def leave(self, peer: PeerId) -> list[Reply]:
        """A peer is gone, with its questions and the visits that it was to make."""
        self._allowances.pop(peer, None)
        self._running = [probe for probe in self._running if probe.asker != peer]
        for probe in self._running:
            probe.visits = {visit: each for visit, each in probe.visits.items() if each[0] != peer}
        return self._answered()

    def ask(self, peer: PeerId, message: Probe, contacts: Mapping[PeerId, Contact], now: float) -> list[Reply]:
        """A peer wants to know; `contacts` are those of all members. Who asks too often hears that nobody was asked."""
        own = contacts[peer]
        probe = _Probe(peer, message.query, own, 0, now + _ANSWER_SECONDS)
        self._running.append(probe)
        replies: list[Reply] = []
        if peer in self._allowances and self._allowances[peer].take(now) and self._all.take(now):
            probe.elsewhere = sum(contact.host != own.host for contact in contacts.values())
            for visitor in self._visitors(peer, contacts):
                self._visits += 1
                probe.visits[self._visits] = visitor, contacts[visitor]
                replies.append((visitor, Visit(self._visits, peer, own.host, own.port)))
        return replies + self._answered()

    def visited(self, peer: PeerId, message: Visited) -> list[Reply]:
        """A visitor tells what came of it. What it was not asked for says nothing."""
        for probe in self._running:
            visitor, contact = probe.visits.get(message.visit, (None, None))
            if visitor == peer and contact is not None:
                del probe.visits[message.visit]
                if message.outcome in OUTCOMES:
                    probe.calls.append(Call(visitor, contact.host, contact.port, message.outcome))
        return self._answered()

    def expire(self, now: float) -> list[Reply]:
        """Let nobody wait longer than visitors have."""
        for probe in self._running:
            if now >= probe.deadline:
                probe.visits.clear()
        return self._answered()

    def _answered(self) -> list[Reply]:
        over = [probe for probe in self._running if not probe.visits]
        self._running = [probe for probe in self._running if probe.visits]
        return [
            (each.asker, Probed(each.query, each.contact.host, each.contact.port, each.elsewhere, each.calls))
            for each in over
        ]

    def _visitors(self, peer: PeerId, contacts: Mapping[PeerId, Contact]) -> list[PeerId]:
        able = list(self._allowances)
        drawn = [each for each in self._rng.sample(able, min(_DRAWN, len(able))) if each != peer]
        return sorted(drawn, key=lambda each: contacts[each].host == contacts[peer].host)[:_VISITORS]
