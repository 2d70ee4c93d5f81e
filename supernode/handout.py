"""Which neighbours a peer is told of."""

from __future__ import annotations

import operator
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from supernode.protocol import PeerId
from supernode.swarm import Swarm

MAX_NEIGHBOURS = 50
"""Up to here the swarm is a full mesh; above, a random graph of about this degree (design, section 4): each is told of
half as many, and as many are told of it."""

_DRAWN = 2
"""Members drawn for each that is taken. Whoever comes early is told to all who come later: of 400 simulated peers those
had 170 neighbours, uploaded a fifth more than the others and were slowest: 1.55 of the bound instead of 1.43."""

_WORD = 4
"""Bytes of a random number by which a member is drawn."""

_neighbours = operator.attrgetter("neighbours")


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
    familiar: Sequence[PeerId] = (),
) -> list[PeerId]:
    """Members besides `peer`: all up to `limit`, else half of it, half of these from its zone where there are as many.

    First come those that are `familiar`, its neighbours for another blob of the same image: an image of 40 layers needs
    no more connections than one of them. Others are drawn at random. Of these, members that still leech make up at
    least half where there are as many, so that a few seeds are not everybody's only neighbours, and the ones with the
    fewest neighbours are taken.
    """
    members = swarm.members
    others = list(members)
    if len(others) <= limit + 1:
        others.remove(peer)
        return _shuffled(others, rng)
    count = -(-limit // 2)
    drawn = [other for other in familiar if other in swarm.leechers]
    if len(drawn) >= count and len(swarm.leechers) == len(members):
        return drawn[:count]
    drawn += _fewest_first(_draw(others, _DRAWN * count, rng, peer), swarm)
    drawn = list(dict.fromkeys(drawn))
    zone = contacts[peer].zone
    near = [other for other in drawn if contacts[other].zone == zone]
    if len(near) == len(drawn):
        return _shuffled(_mix(drawn, swarm, count), rng)
    if len(near) < count // 2:
        near = [other for other in members if other != peer and contacts[other].zone == zone]
        near = _fewest_first(rng.sample(near, min(len(near), _DRAWN * count)), swarm)
    chosen = _mix(near, swarm, count // 2)
    taken = set(chosen)
    chosen += _mix([other for other in drawn if other not in taken], swarm, count - len(chosen))
    return _shuffled(chosen, rng)


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
    return _fewest_first(rng.sample(leechers, min(len(leechers), _DRAWN * limit)), swarm)[:limit]


def _mix(peers: list[PeerId], swarm: Swarm, count: int) -> list[PeerId]:
    """The first of these peers, of which at least half leech where there are as many."""
    if len(swarm.leechers) == len(swarm.members):
        return peers[:count]
    leechers = [peer for peer in peers if peer in swarm.leechers]
    seeds = [peer for peer in peers if peer not in swarm.leechers]
    wanted = min(len(leechers), max(count - len(seeds), count // 2))
    return leechers[:wanted] + seeds[: count - wanted]


def _fewest_first(peers: list[PeerId], swarm: Swarm) -> list[PeerId]:
    """The peers in the order of their numbers of neighbours; of those with as many the order stays."""
    found = map(swarm.members.__getitem__, peers)
    return sorted(peers, key=dict(zip(peers, map(len, map(_neighbours, found)), strict=True)).__getitem__)


def _draw(peers: list[PeerId], count: int, rng: random.Random, but: PeerId) -> list[PeerId]:
    """About `count` of these peers at random, without one of them, and at least half as many.

    Handouts are a quarter of what a supernode does, and `random.sample` takes half as long again.
    """
    last = len(peers)
    words = memoryview(rng.randbytes(_WORD * (count + count // 2))).cast("I")
    drawn = dict.fromkeys([peers[word % last] for word in words])
    if len(drawn) <= count // 2 + 1:
        drawn = dict.fromkeys(rng.sample(peers, min(last, count + 1)))
    drawn.pop(but, None)
    return list(drawn)


def _shuffled(peers: list[PeerId], rng: random.Random) -> list[PeerId]:
    words = memoryview(rng.randbytes(_WORD * len(peers))).cast("I")
    return sorted(peers, key=dict(zip(peers, words, strict=True)).__getitem__)
