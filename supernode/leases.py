"""Origin leases: each piece leaves the origin once, and the origin counts as one more seed with its own upload slots.

Plain classes without I/O, clock or randomness of their own; the simulator in `bench/` runs the same ones. The rule and
its figures are in `docs/architecture.md`.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from shoal.descriptor import BlobKey
from shoal.pieces import MIB, PieceSet, leading_run, lowest, run_of
from shoal.reference import Location
from supernode.protocol import LeaseId, PeerId
from supernode.swarm import Swarm

ORIGIN_SLOTS = 8
"""Leases at a time over all blobs of an origin. Slowest of 16 nodes at 50 Mbit/s over the bound, with an origin of one
link: four 1.17, six 1.14, eight 1.12, twelve 1.14. Their holders' links are full, so that streams wait, and with four
the origin stood idle for a tenth of the time. In the fluid model nothing waits, and more than four are worse."""

_RUN_SECONDS = 0.5
_MIN_RUN, _MAX_RUN = MIB // 2, 16 * MIB
"""Bytes. With runs of 1 MiB at least the slowest of 16 needs 0.01 more, of an image of 41 layers 0.04."""
_LEAD_SECONDS = 0.15
"""So long before the expected end of a lease the next one is granted: what a request costs on links that are full."""
_MAX_OVERLAP = 2
"""The next leases that may have begun before their predecessors ended, as the slots' part: a half."""
_MIN_PATIENCE = 4.0
"""Seconds without progress after which a lease is revoked at the earliest."""
_PATIENCE_PIECES = 6
"""A lease is revoked after this many times the expected time of one piece."""
_LEAST_RATE, _STIRRED_PATIENCE = 16 << 10, 30.0
"""Bytes/s at which a piece may come of which its holder says that it does, and the longest patience in seconds with one
that holds up others: there may be eight streams of a node that limits itself to 128 KiB/s, and its holder may lie."""
_MUTE_SECONDS = 60.0
"""For which a holder whose lease was revoked is given another one only where nobody else may fetch anything."""
_RATE_WEIGHT = 0.25
_ONLY_SECONDS = 0.25
"""How long a lease over a part of much stays its holder's only one: who come a moment later, as many do, are to fetch
the rest. What the first peer held of four leases took 0.7 s to spread to 15 others."""
_SMALL = MIB
"""Bytes of a blob of which a part is not "a part of much"."""
_MIN_SECONDS = 0.01
"""What is faster is taken as this fast."""
_CANDIDATES = 8
_PREHEAT_SECONDS = 5.0
"""While leases run over what clients wait for, a lease over something else is granted once in so long: preheating costs
them little then, and goes on."""
_MAX_REPOSITORIES_EACH = 256
"""Repositories of which one peer wants blobs at a time: all are looked through with each decision."""


@dataclass(slots=True)
class Lease:
    """The right to fetch pieces `next` to `end - 1`; `next` moves with the holder's reports. Times in seconds."""

    id: LeaseId
    holder: PeerId
    location: Location
    swarm: Swarm
    next: int
    end: int
    moved_at: float
    lone: bool
    stirred_at: float = float("-inf")
    """When its holder said last that bytes of the next piece come."""
    first: int = field(init=False)
    asked_end: int = field(init=False)
    """Where it is to end: its holder was asked to end it there, or else its end."""
    granted_at: float = field(init=False)
    relief: bool = False
    """Whether its holder starves for pieces that others have; these do not count as had."""
    counted: bool = True
    """Whether it takes one of the origin's slots; in its last piece it leaves its slot to the next lease."""

    @property
    def rest(self) -> PieceSet:
        return run_of(self.next, self.end - self.next)

    def __post_init__(self) -> None:
        self.first, self.asked_end, self.granted_at = self.next, self.end, self.moved_at

    def soon(self, seconds: float, now: float) -> int:
        """Pieces that its holder has reached in so many seconds, at its pace until now; of `_MAX_RUN` bytes at most."""
        pace = (self.next - self.first) / max(now - self.granted_at, _MIN_SECONDS)
        return min(round(pace * seconds), _MAX_RUN // self.swarm.layout.piece_size)


@dataclass(slots=True)
class Granted:
    """A decision: a new lease."""

    lease: Lease


@dataclass(slots=True)
class Trimming:
    """A decision: a lease is to end before piece `end`. It does when its holder, who knows how far it is, agrees."""

    lease: Lease
    end: int


@dataclass(slots=True)
class Revoked:
    """A decision: a lease is over."""

    lease: Lease


Decision = Granted | Trimming | Revoked


@dataclass
class _Queue:
    """The peers that want blobs of one repository, each with its blobs in the order in which it opened them."""

    location: Location
    wants: dict[PeerId, dict[BlobKey, Swarm]] = field(default_factory=dict)
    order: list[PeerId] = field(default_factory=list)
    swarms: dict[BlobKey, Swarm] = field(default_factory=dict)
    counts: Counter[BlobKey] = field(default_factory=Counter)

    def add(self, peer: PeerId, swarm: Swarm) -> None:
        if peer not in self.wants:
            self.wants[peer] = {}
            self.order.append(peer)
        if swarm.key not in self.wants[peer]:
            self.wants[peer][swarm.key] = swarm
            self.swarms[swarm.key] = swarm
            self.counts[swarm.key] += 1

    def remove(self, peer: PeerId, swarm: Swarm) -> None:
        blobs = self.wants.get(peer)
        if blobs is None or blobs.pop(swarm.key, None) is None:
            return
        self.counts[swarm.key] -= 1
        if not self.counts[swarm.key]:
            del self.swarms[swarm.key], self.counts[swarm.key]
        if not blobs:
            del self.wants[peer]
            self.order.remove(peer)

    def anything_free(self, *, pulled: bool) -> bool:
        return any(swarm.needs_origin and swarm.is_pulled is pulled for swarm in self.swarms.values())

    @property
    def anyone_apart(self) -> bool:
        return any(swarm.apart for swarm in self.swarms.values())

    def first_free(self, peer: PeerId, now: float, ranges: bool, *, apart: bool, pulled: bool) -> Swarm | None:
        """The first blob of which there is something to fetch; one that the peer starves for goes before others.
        `apart`: of those that this peer alone calls wrong. `pulled`: of those that clients wait for, else of others."""
        first: Swarm | None = None
        for swarm in self.wants[peer].values():
            if swarm.is_pulled is not pulled:
                continue
            if not swarm.needs_origin or not (ranges or not swarm.leased) or (peer in swarm.apart) != apart:
                continue
            if swarm.members[peer].places.get(self.location, now + 1) > now or swarm.is_passed_over(peer, now):
                continue
            if swarm.starving(peer):
                return swarm
            if first is None and swarm.free_for(peer) and not swarm.members[peer].on_demand:
                first = swarm
        return first


class OriginLeases:
    """The leases of one origin. What changes something is followed by `decide`, at once or with the next tick."""

    def __init__(self, rng: random.Random, ids: Iterator[int] | None = None, slots: int = ORIGIN_SLOTS) -> None:
        self._rng = rng
        self._ids = ids if ids is not None else itertools.count(1)
        self.slots = slots
        self._queues: dict[Location, _Queue] = {}
        self._named: dict[PeerId, set[Location]] = {}
        """The repositories of which each peer wants blobs."""
        self._mute: dict[PeerId, float] = {}
        """Holders whose leases did not move, and until when others go before them."""
        self._held: dict[PeerId, list[Lease]] = {}
        self._rate = 0.0
        self._turn = 0
        self._preheated_at = float("-inf")
        """When a lease was granted last over what no client waits for."""
        self.ranges = True
        """Whether the origin answers range requests; if not, a lease goes to the end of its blob."""
        self.leases: dict[LeaseId, Lease] = {}

    # --- what happens ---------------------------------------------------------------------------------------------

    def want(self, peer: PeerId, location: Location, swarm: Swarm) -> None:
        """A peer opened a blob and lacks pieces of it."""
        if location not in self._queues:
            self._queues[location] = _Queue(location)
        self._queues[location].add(peer, swarm)
        self._named.setdefault(peer, set()).add(location)

    def may_want(self, peer: PeerId, location: Location) -> bool:
        """Whether a peer may want blobs of this repository besides those of others."""
        named = self._named.get(peer, ())
        return location in named or len(named) < _MAX_REPOSITORIES_EACH

    def unwant(self, peer: PeerId, swarm: Swarm) -> None:
        """A peer has the blob, or does not want it any more."""
        for location in list(self._named.get(peer, ())):
            queue = self._queues[location]
            queue.remove(peer, swarm)
            if not queue.wants:
                del self._queues[location]
            if peer not in queue.wants:
                self._named[peer].discard(location)
        if not self._named.get(peer):
            self._named.pop(peer, None)

    def progress(self, lease_id: LeaseId, holder: PeerId, first: int, count: int, now: float) -> Lease | None:
        """The holder fetched `count` pieces from `first` on. None where it does not hold that lease (any more)."""
        lease = self.leases.get(lease_id)
        if lease is None or lease.holder != holder or first < lease.next:
            return None
        reached = min(first + count, lease.end)
        if reached <= lease.next:
            return lease
        fetched = lease.swarm.layout.bytes_of(run_of(lease.first, reached - lease.first))
        rate = fetched / max(now - lease.granted_at, _MIN_SECONDS)
        self._rate = rate if self._rate == 0.0 else self._rate + _RATE_WEIGHT * (rate - self._rate)
        lease.swarm.leased &= ~run_of(lease.next, reached - lease.next)
        lease.swarm.fetched(run_of(first, reached - first))
        if first > lease.next:  # pieces that it left out are for others
            lease.swarm.recount()
        lease.next, lease.moved_at = reached, now
        if lease.next >= lease.end:
            self._end(lease)
        return lease

    def stir(self, lease_id: LeaseId, holder: PeerId, now: float) -> None:
        """The holder says that bytes of the next piece come."""
        lease = self.leases.get(lease_id)
        if lease is not None and lease.holder == holder:
            lease.stirred_at = now

    def release(self, lease_id: LeaseId, holder: PeerId) -> Lease | None:
        """The holder gives a lease back; what it has not fetched is free again."""
        lease = self.leases.get(lease_id)
        if lease is None or lease.holder != holder:
            return None
        self._end(lease)
        return lease

    def trimmed(self, lease_id: LeaseId, holder: PeerId, end: int) -> None:
        """The holder ends a lease before piece `end`; what follows is free."""
        lease = self.leases.get(lease_id)
        if lease is None or lease.holder != holder or end >= lease.end:
            return
        if end <= lease.next:
            self._end(lease)
            return
        lease.swarm.leased &= ~run_of(end, lease.end - end)
        lease.end = end
        lease.swarm.recount()

    def shorten(self, swarm: Swarm, gained: PieceSet) -> list[Decision]:
        """Somebody has come to have leased pieces: a lease ends where others than its holder have all that follows."""
        decisions: list[Decision] = []
        for lease in [each for each in self.leases.values() if each.swarm is swarm and not each.relief]:
            if not gained >> lease.asked_end - 1 & 1:
                continue
            needed = lease.rest & ~swarm.held_by_others(lease.holder)
            self._trim(lease, max(needed.bit_length(), lease.next + 1), decisions)
        return decisions

    def held_by(self, peer: PeerId, swarm: Swarm) -> list[Lease]:
        """The leases of one peer over one blob."""
        return [lease for lease in self._held.get(peer, ()) if lease.swarm is swarm]

    # --- what follows ---------------------------------------------------------------------------------------------

    def decide(self, now: float, *, granting: bool = True) -> list[Decision]:
        """Revoke what does not move, split lone leases when others have come, and fill the origin's slots."""
        decisions: list[Decision] = []
        for lease in list(self.leases.values()):
            still = now - lease.moved_at
            if still > _MIN_PATIENCE and still > self._patience(lease, now):
                self._end(lease)
                self._mute = {peer: until for peer, until in self._mute.items() if until > now}
                self._mute[lease.holder] = now + _MUTE_SECONDS
                decisions.append(Revoked(lease))
            elif lease.counted and self._ends_soon(lease, now) and self._ending < self.slots // _MAX_OVERLAP:
                lease.counted = False
        if not self._is_lone:
            self._split(decisions, now)
        if granting:
            self._fill(decisions, now, pulled=True)
            self._preheat(decisions, now)
        return decisions

    def _fill(self, decisions: list[Decision], now: float, *, pulled: bool) -> None:
        """Grant as many leases as the origin has slots, over what clients wait for, or over the rest. The latter leave
        all slots to the former."""
        counted = [lease for lease in self.leases.values() if lease.counted]
        active = sum(lease.swarm.is_pulled for lease in counted) if pulled else len(counted)
        while active < self.slots:
            granted = self._grant(now, pulled=pulled)
            if granted is None:
                return
            decisions.append(Granted(granted))
            active += 1

    def _preheat(self, decisions: list[Decision], now: float) -> None:
        """What no client waits for stands back as long as leases run over what one waits for, all but a little."""
        if not self._serves_clients:
            self._fill(decisions, now, pulled=False)
            return
        preheating = [lease for lease in self.leases.values() if not lease.swarm.is_pulled]
        for lease in preheating:
            if lease.lone:
                self._trim(lease, lease.next + 1, decisions)
        if not preheating and now - self._preheated_at >= _PREHEAT_SECONDS:
            granted = self._grant(now, pulled=False)
            if granted is not None:
                decisions.append(Granted(granted))

    def settle(self, swarm: Swarm, piece: int, parties: Collection[PeerId], now: float) -> Granted | None:
        """A lease over one piece of which these peers say different things, for a third one that lacks it."""
        if swarm.leased >> piece & 1 or not self.ranges:
            return None
        for location, queue in self._queues.items():
            for peer in queue.order:
                member = swarm.members.get(peer)
                if member is None or peer in parties or swarm.key not in queue.wants[peer] or member.have >> piece & 1:
                    continue
                if member.places.get(location, now + 1) <= now:
                    return Granted(self._hold(peer, location, swarm, run_of(piece, 1), now, relief=True))
        return None

    @property
    def idle(self) -> bool:
        return not self._queues and not self.leases

    def is_wanted_by_none_but(self, peer: PeerId) -> bool:
        """Whether all that wants anything of this origin is one peer."""
        return self._named.keys() <= {peer}

    @property
    def _is_lone(self) -> bool:
        """Whether one peer alone wants anything of this origin."""
        peers: set[PeerId] = set()
        for queue in self._queues.values():
            if len(queue.wants) > 1:
                return False
            peers.update(queue.wants)
        return len(peers) <= 1

    @property
    def _serves_clients(self) -> bool:
        """Whether leases run over what clients wait for."""
        return any(lease.swarm.is_pulled for lease in self.leases.values())

    def _expected(self, lease: Lease) -> float:
        return lease.swarm.layout.length(lease.next) / self._rate

    def _ends_soon(self, lease: Lease, now: float) -> bool:
        return (
            lease.end - lease.next == 1
            and self._rate > 0
            and now - lease.moved_at >= self._expected(lease) - _LEAD_SECONDS
        )

    @property
    def _ending(self) -> int:
        return sum(not lease.counted for lease in self.leases.values())

    def _patience(self, lease: Lease, now: float) -> float:
        patience = _PATIENCE_PIECES * self._expected(lease) if self._rate else 0.0
        if now - lease.stirred_at > _MIN_PATIENCE:
            return patience
        longest = lease.swarm.layout.length(lease.next) / _LEAST_RATE
        return max(patience, longest if self._is_lone else min(longest, _STIRRED_PATIENCE))

    def _run(self, swarm: Swarm) -> int:
        size = min(max(self._rate * _RUN_SECONDS, _MIN_RUN), _MAX_RUN)
        return max(1, int(size // swarm.layout.piece_size))

    def _split(self, decisions: list[Decision], now: float) -> None:
        """Lone leases end soon: what they have not reached is for others."""
        for lease in [lease for lease in self.leases.values() if lease.lone]:
            lease.lone = False
            end = lease.next + max(self._run(lease.swarm), lease.soon(_RUN_SECONDS, now))
            self._trim(lease, end, decisions)

    @staticmethod
    def _trim(lease: Lease, end: int, decisions: list[Decision]) -> None:
        if end < lease.asked_end:
            lease.asked_end = end
            decisions.append(Trimming(lease, end))

    def _may_hold_another(self, peer: PeerId, now: float) -> bool:
        return all(
            not lease.counted or lease.swarm.layout.size <= _SMALL or now - lease.granted_at >= _ONLY_SECONDS
            for lease in self._held.get(peer, ())
        )

    def _grant(self, now: float, *, pulled: bool) -> Lease | None:
        locations = list(self._queues)
        for step in range(len(locations)):
            queue = self._queues[locations[(self._turn + step) % len(locations)]]
            found = self._candidate(queue, now, pulled=pulled)
            if found is not None:
                self._turn += step + 1
                if not pulled:
                    self._preheated_at = now
                return self._lease(queue.location, *found, now)
        return None

    def _candidate(self, queue: _Queue, now: float, *, pulled: bool) -> tuple[PeerId, Swarm] | None:
        """A peer with few leases among some drawn at random, or else any that may fetch a free piece."""
        if not queue.anything_free(pulled=pulled):
            return None
        drawn = self._rng.sample(queue.order, min(_CANDIDATES, len(queue.order)))
        drawn.sort(key=lambda peer: len(self._held.get(peer, ())))
        mute = {peer for peer, until in self._mute.items() if until > now}
        last = (False, True)
        for apart, is_mute in itertools.product(last if queue.anyone_apart else last[:1], last if mute else last[:1]):
            for peer in itertools.chain(drawn, queue.order):
                if (peer in mute) == is_mute and self._may_hold_another(peer, now):
                    swarm = queue.first_free(peer, now, self.ranges, apart=apart, pulled=pulled)
                    if swarm is not None:
                        return peer, swarm
        return None

    def _lease(self, location: Location, peer: PeerId, swarm: Swarm, now: float) -> Lease:
        starving = swarm.starving(peer)
        pieces = starving or swarm.free_for(peer)
        first = lowest(pieces)
        available = leading_run(pieces, first)
        # one at a time: when others come, what the socket of a lease that is cut holds has left the origin twice
        lone = self._is_lone and self.ranges and not any(lease.lone for lease in self._held.get(peer, ()))
        lone = lone and (swarm.is_pulled or not self._serves_clients)
        count = available if lone and not starving else min(available, self._run(swarm))
        if not self.ranges:
            count = swarm.layout.count - first
        return self._hold(peer, location, swarm, run_of(first, count), now, lone=lone, relief=bool(starving))

    def _hold(
        self,
        peer: PeerId,
        location: Location,
        swarm: Swarm,
        run: PieceSet,
        now: float,
        *,
        lone: bool = False,
        relief: bool = False,
    ) -> Lease:
        lease_id = LeaseId(next(self._ids))
        lease = Lease(lease_id, peer, location, swarm, lowest(run), run.bit_length(), now, lone, relief=relief)
        lease.swarm.leased |= lease.rest
        lease.swarm.free &= ~lease.rest
        self.leases[lease.id] = lease
        self._held.setdefault(lease.holder, []).append(lease)
        return lease

    def _end(self, lease: Lease) -> None:
        del self.leases[lease.id]
        held = self._held[lease.holder]
        held.remove(lease)
        if not held:
            del self._held[lease.holder]
        if lease.next < lease.end:
            lease.swarm.leased &= ~lease.rest
            lease.swarm.recount()
