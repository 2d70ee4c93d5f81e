"""Which neighbours a peer is told of."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from supernode.protocol import PeerId
from supernode.swarm import Swarm

MAX_NEIGHBOURS = 50
"""Up to here the swarm is a full mesh; above, a random graph of about this degree (design, section 4): each is told of
half as many, and as many are told of it."""

_DRAWN = 2
"""Members drawn for each that is taken. Whoever comes early is told to all who come later: of 400 simulated peers those
had 170 neighbours, uploaded a fifth more than the others and were slowest: 1.55 of the bound instead of 1.43."""


@dataclass(frozen=True, slots=True)
class Contact:
    """Where a peer takes connections, and what it is near to."""

    host: str
    port: int
    zone: str


def choose_neighbours(
    peer: PeerId,
    swarm: Swarm,
    contacts: Mapping[PeerId, Contact],
    rng: random.Random,
    limit: int = MAX_NEIGHBOURS,
) -> list[PeerId]:
    """Members besides `peer`: all up to `limit`, else half of it, half of these from its zone where there are as many.

    Some are drawn at random. Of these, members that still leech make up at least half where there are as many, so that
    a few seeds are not everybody's only neighbours, and the ones with the fewest neighbours are taken.
    """
    others = list(swarm.members)
    if len(others) <= limit + 1:
        others = [other for other in others if other != peer]
        rng.shuffle(others)
        return others
    count = -(-limit // 2)
    drawn = [other for other in rng.sample(others, min(len(others), _DRAWN * count + 1)) if other != peer]
    zone = contacts[peer].zone
    near = [other for other in drawn if contacts[other].zone == zone]
    if len(near) < count // 2:
        near = [other for other in others if other != peer and contacts[other].zone == zone]
        near = rng.sample(near, min(len(near), _DRAWN * count))
    chosen = _mix(near, swarm, count // 2)
    taken = set(chosen)
    chosen += _mix([other for other in drawn if other not in taken], swarm, count - len(chosen))
    rng.shuffle(chosen)
    return chosen


def choose_audience(peer: PeerId, swarm: Swarm, rng: random.Random, limit: int = MAX_NEIGHBOURS) -> list[PeerId]:
    """Leechers that are told of a member that has come with pieces: those with the fewest neighbours of some drawn at
    random, and none that has as many neighbours as it should."""
    leechers = [
        other
        for other, member in swarm.leechers.items()
        if other != peer and peer not in member.neighbours and len(member.neighbours) < limit
    ]
    if len(leechers) <= limit:
        return leechers
    drawn = rng.sample(leechers, min(len(leechers), _DRAWN * limit))
    return sorted(drawn, key=lambda other: len(swarm.leechers[other].neighbours))[:limit]


def _mix(peers: list[PeerId], swarm: Swarm, count: int) -> list[PeerId]:
    members = swarm.members
    peers = sorted(peers, key=lambda peer: len(members[peer].neighbours))
    leechers = [peer for peer in peers if peer in swarm.leechers]
    seeds = [peer for peer in peers if peer not in swarm.leechers]
    wanted = min(len(leechers), max(count - len(seeds), count // 2))
    return leechers[:wanted] + seeds[: count - wanted]
