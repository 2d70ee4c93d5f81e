"""Which neighbours a peer is told of."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from supernode.protocol import PeerId
from supernode.swarm import Member

MAX_NEIGHBOURS = 50
"""Up to here the swarm is a full mesh; above, a random graph of about this degree (design, section 4)."""


@dataclass(frozen=True, slots=True)
class Contact:
    """Where a peer takes connections, and what it is near to."""

    host: str
    port: int
    zone: str


def choose_neighbours(
    peer: PeerId,
    members: Mapping[PeerId, Member],
    contacts: Mapping[PeerId, Contact],
    rng: random.Random,
    limit: int = MAX_NEIGHBOURS,
) -> list[PeerId]:
    """Up to `limit` members besides `peer`: half from its zone where there are as many, seeds and leechers mixed.

    Members that still leech make up at least half, so that a few seeds are not everybody's only neighbours.
    """
    others = [other for other in members if other != peer and other in contacts]
    if len(others) <= limit:
        rng.shuffle(others)
        return others
    zone = contacts[peer].zone
    near = [other for other in others if contacts[other].zone == zone]
    chosen = _mix(near, members, rng, limit // 2)
    taken = set(chosen)
    chosen += _mix([other for other in others if other not in taken], members, rng, limit - len(chosen))
    rng.shuffle(chosen)
    return chosen


def _mix(peers: list[PeerId], members: Mapping[PeerId, Member], rng: random.Random, count: int) -> list[PeerId]:
    leechers = [peer for peer in peers if members[peer].leeching]
    seeds = [peer for peer in peers if not members[peer].leeching]
    wanted = min(len(leechers), max(count - len(seeds), count // 2))
    chosen = rng.sample(leechers, wanted)
    return chosen + rng.sample(seeds, min(len(seeds), count - wanted))
