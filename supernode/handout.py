"""Which neighbours a peer is told of."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from supernode.protocol import PeerId
from supernode.swarm import Member

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
    members: Mapping[PeerId, Member],
    contacts: Mapping[PeerId, Contact],
    rng: random.Random,
    limit: int = MAX_NEIGHBOURS,
) -> list[PeerId]:
    """Members besides `peer`: all up to `limit`, else half of it, half of these from its zone where there are as many.

    Some are drawn at random. Of these, members that still leech make up at least half where there are as many, so that
    a few seeds are not everybody's only neighbours, and the ones with the fewest neighbours are taken.
    """
    others = list(members)
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
    chosen = _mix(near, members, count // 2)
    taken = set(chosen)
    chosen += _mix([other for other in drawn if other not in taken], members, count - len(chosen))
    rng.shuffle(chosen)
    return chosen


def _mix(peers: list[PeerId], members: Mapping[PeerId, Member], count: int) -> list[PeerId]:
    peers = sorted(peers, key=lambda peer: members[peer].neighbours)
    leechers = [peer for peer in peers if members[peer].leeching]
    seeds = [peer for peer in peers if not members[peer].leeching]
    wanted = min(len(leechers), max(count - len(seeds), count // 2))
    return leechers[:wanted] + seeds[: count - wanted]
