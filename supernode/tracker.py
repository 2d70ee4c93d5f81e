"""The supernode's state machine: messages of peers go in, messages to peers come out. No I/O, no clock."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from shoal.descriptor import BlobKey
from shoal.messages import InvalidMessage, NamesBlob, key_of, pieces_of
from shoal.pieces import PIECE_DIGEST_SIZE, PieceLayout, PieceSet, run_of
from shoal.reference import InvalidReference, Location, Registry
from supernode import protocol
from supernode.alarms import Alarm
from supernode.allowance import Allowance
from supernode.handout import MAX_NEIGHBOURS, Contact, choose_audience, choose_neighbours
from supernode.leases import ORIGIN_SLOTS, Decision, Granted, OriginLeases, Revoked, Trimming
from supernode.ledger import Ledger, leecher_bytes, member_bytes, place_bytes, swarm_bytes
from supernode.outbox import Outbox, Outgoing
from supernode.probes import Probes
from supernode.protocol import LeaseId, PeerId, ReleaseReason
from supernode.quiet import QuietBoard
from supernode.swarm import Swarm
from supernode.tags import TagTable
from supernode.tally import Tally
from supernode.testimony import Testimony

_SEEK_SECONDS = 1.0
_FAILED_SECONDS = 30.0
"""How long a peer gets no lease for a place that was silent to it, where it has named another one."""
_COMING_SECONDS = 7.0
"""How long a peer's word counts that pieces come to it from an origin without a lease."""
_STARVED_SECONDS = 2.0
"""How long a peer's word counts that it starves: it says so each second as long as it does."""
_YOUNG_SECONDS, _GATHERING_SECONDS = 10.0, 1.5
"""A supernode so young to which a peer of an earlier one returns grants no lease for so long: others return too, and
have what would be granted."""
_MAX_SWARMS_PER_PEER = 65_536
_MAX_PLACES = 32
"""Places where an origin keeps one blob for one peer."""
_MAX_ORIGINS, _MAX_ORIGINS_EACH = 1024, 64
"""Origins of which blobs are wanted, in all and by one peer alone."""
_REFRESHES = 64.0, 1.0
"""Repositories that one peer may have all others ask for anew, at once and each second."""
_SILENCE_CHECK_SECONDS = 0.5


class _Refused(Exception):
    """Something is wrong with one blob of a message."""


@dataclass(slots=True)
class _Peer:
    neighbour: protocol.Neighbour
    """What others are told of it."""
    seen_at: float
    confirms: bool
    """Whether it answers `Confirm`, and says what it has at second hand."""
    refreshes: Allowance
    swarms: dict[BlobKey, Swarm] = field(default_factory=dict)


class Tracker:
    """All swarms, leases and tags of a cluster.

    Call `join`, `receive` and `leave` as things happen and `tick` some tens of times a second; `take` gives what is to
    be sent. Times are in seconds of any monotonic clock.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        origin_slots: int = ORIGIN_SLOTS,
        handout: int = MAX_NEIGHBOURS,
        tag_freshness: float = 60.0,
        silence: float = 15.0,
    ) -> None:
        self._rng = rng
        self._origin_slots = origin_slots
        self._handout = handout
        self._silence = silence
        self._ids = itertools.count(1)
        self._born_at: float | None = None
        self._gathering_until: float | None = None
        self._silence_due = 0.0
        self._peers: dict[PeerId, _Peer] = {}
        self._contacts: dict[PeerId, Contact] = {}
        self._origins: dict[Registry, OriginLeases] = {}
        self._quiet = QuietBoard()
        self._ledger = Ledger()
        self._tags = TagTable(tag_freshness, rng)
        self._probes = Probes(rng)
        self._expecting: dict[BlobKey, Swarm] = {}
        self._outbox = Outbox()
        self.swarms: dict[BlobKey, Swarm] = {}
        self.tally = Tally()
        self._testimony = Testimony(self, self.swarms, self._ledger, self._outbox, rng)

    def reconfigure(self, *, origin_slots: int, handout: int, tag_freshness: float) -> None:
        """From now on these hold, as at the start. Leases that are given out stay."""
        self._origin_slots, self._handout, self._tags.freshness = origin_slots, handout, tag_freshness
        for origin in self._origins.values():
            origin.slots = origin_slots

    # --- what happens ---------------------------------------------------------------------------------------------

    def join(
        self,
        peer: PeerId,
        contact: Contact,
        now: float,
        *,
        returning: bool = False,
        confirms: bool = False,
        visits: bool = False,
    ) -> None:
        """A peer has connected; of an older connection of the same peer nothing stays. `returning`: an earlier
        supernode has known it. `confirms`, `visits`: as `protocol.Hello` has them. Raises `InvalidMessage` where it is
        kept out, since it has told others what is wrong."""
        if self._testimony.excludes(peer, now):
            raise InvalidMessage("two others have contradicted this peer: it is kept out for a while")
        if self._born_at is None:
            self._born_at = now
        if returning and self._gathering_until is None and now - self._born_at < _YOUNG_SECONDS:
            self._gathering_until = now + _GATHERING_SECONDS
        if peer in self._peers:
            self.leave(peer, now)
        self._peers[peer] = _Peer(
            protocol.Neighbour(peer, contact.host, contact.port), now, confirms, Allowance.of(*_REFRESHES, now)
        )
        self._contacts[peer] = contact
        if confirms:
            self._tags.join(peer, contact.host)
        if visits:
            self._probes.join(peer, now)
        for registry, until in self._quiet.all(now).items():
            self._outbox.send([peer], protocol.Quiet(registry, until - now))

    def leave(self, peer: PeerId, now: float) -> None:
        """A peer is gone."""
        state = self._peers.get(peer)
        if state is None:
            return
        for swarm in list(state.swarms.values()):
            self._depart(peer, swarm)
        del self._peers[peer], self._contacts[peer]
        self._reply(self._tags.leave(peer, now))
        self._reply(self._probes.leave(peer))
        self._decide(now)

    def receive(self, peer: PeerId, message: protocol.FromPeer, now: float) -> None:
        """Take one message; raises `InvalidMessage` where the peer breaks the protocol."""
        state = self._peers.get(peer)
        if state is None:
            raise InvalidMessage("not registered (any more)")
        state.seen_at = now
        match message:
            case protocol.Announce():  # what follows for leases can wait for the tick: most messages are announces
                for held in message.blobs:
                    try:
                        self._announce(peer, state, held, now)
                    except (_Refused, InvalidMessage) as error:
                        self._outbox.refuse(peer, held, error)
            case protocol.Progress():
                self._progress(peer, message, now)
            case protocol.Open():
                self._open(peer, state, message, now)
            case protocol.Resolve():
                self._reply(self._tags.resolve(peer, message, now))
            case protocol.Publish():
                self._reply(self._tags.publish(peer, message, now))
            case protocol.Quiet():
                self._quieten(peer, message, now)
            case protocol.Refresh() if state.refreshes.take(now):
                self._tags.refresh(message.registry, message.repository)
                told = protocol.Refresh(message.registry, message.repository)
                self._outbox.send([other for other in self._peers if other != peer], told)
            case protocol.Close():
                for blob in message.blobs:
                    swarm = self._swarm_of(state, blob)
                    if swarm is not None:
                        self._depart(peer, swarm)
                self._decide(now)
            case protocol.Seek():
                self._seek(peer, state, message, now)
            case protocol.Starved():
                self._starved(peer, state, message, now)
            case protocol.Release():
                self._release(peer, message, now)
            case protocol.Trimmed():
                for origin in self._origins.values():
                    origin.trimmed(LeaseId(message.lease), peer, message.end)
                self._decide(now)
            case protocol.Table():
                swarm = self._swarm_of(state, message)
                if swarm is not None:
                    self._testimony.table(peer, swarm, message, now)
            case protocol.Corrupt():
                swarm = self._swarm_of(state, message)
                if swarm is not None:
                    self._testimony.corrupt(peer, swarm, now)
                    self._decide(now)
            case protocol.Probe():
                self._reply(self._probes.ask(peer, message, self._contacts, now))
            case protocol.Visited():
                self._reply(self._probes.visited(peer, message))
            case protocol.Hello():
                raise InvalidMessage("a second hello")

    def refresh(self, location: Location) -> None:
        """What references of a repository stand for is to be asked of the origin anew, by all."""
        self._tags.refresh(location.registry, location.repository)
        self._outbox.send(list(self._peers), protocol.Refresh(location.registry, location.repository))

    def tick(self, now: float) -> None:
        """Tell news of piece digests, revoke leases that do not move, grant what is free, forget silent peers."""
        if self._born_at is None:
            self._born_at = now
        self._testimony.tick(now)
        for key, swarm in list(self._expecting.items()):
            swarm.expire(now)
            if not swarm.coming and not swarm.starved:
                del self._expecting[key]
        self._reply(self._tags.expire(now))
        self._reply(self._probes.expire(now))
        if now >= self._silence_due:
            self._silence_due = now + _SILENCE_CHECK_SECONDS
            for peer in [peer for peer, state in self._peers.items() if now - state.seen_at > self._silence]:
                self._outbox.send([peer], protocol.Refused("silent for too long"))
                self.leave(peer, now)
        self._decide(now)

    def take(self) -> list[Outgoing]:
        """What is to be sent, in order; it is given once."""
        return self._outbox.take()

    def take_alarms(self) -> list[Alarm]:
        """What members contradicted each other about; it is given once."""
        alarms = self._tags.alarms + self._testimony.alarms
        self._tags.alarms.clear()
        self._testimony.alarms.clear()
        return alarms

    @property
    def has_outgoing(self) -> bool:
        """Whether `take` would give anything."""
        return bool(self._outbox)

    @property
    def peers(self) -> int:
        return len(self._peers)

    @property
    def seedless(self) -> int:
        """How many blobs are wanted of which nobody has a piece that nobody fetches from an origin either."""
        return sum(1 for swarm in self.swarms.values() if swarm.leechers and swarm.free and not swarm.leased)

    @property
    def leases(self) -> int:
        return sum(len(origin.leases) for origin in self._origins.values())

    @property
    def origins(self) -> Mapping[Registry, OriginLeases]:
        """The leases of each origin of which somebody wants blobs."""
        return self._origins

    @property
    def origin_slots(self) -> int:
        """Leases of one origin at a time."""
        return self._origin_slots

    def quiet(self, now: float) -> Mapping[str, float]:
        """Origins that are left alone, and until when."""
        return self._quiet.all(now)

    def swarms_of(self, peer: PeerId) -> Mapping[BlobKey, Swarm]:
        """The swarms that a peer is in."""
        state = self._peers.get(peer)
        return {} if state is None else state.swarms

    # --- swarms ---------------------------------------------------------------------------------------------------

    def _swarm(self, peer: PeerId, state: _Peer, blob: NamesBlob) -> Swarm:
        """The swarm of a blob, joined by this peer; raises `_Refused`, and `InvalidMessage` for a bad digest."""
        key = key_of(blob)
        swarm = state.swarms.get(key)
        if swarm is not None:
            return swarm
        if len(state.swarms) >= _MAX_SWARMS_PER_PEER:
            raise _Refused(f"this peer is in {_MAX_SWARMS_PER_PEER} swarms already")
        swarm = self.swarms.get(key)
        layout = PieceLayout.of(key.size) if swarm is None else swarm.layout
        cost = member_bytes(layout) + (swarm_bytes(layout) if swarm is None else 0)
        if not self._ledger.may_take(peer, cost):
            raise _Refused("this peer has told of as much as the supernode keeps for one")
        if swarm is None:
            swarm = self.swarms[key] = Swarm(key, layout)
        self._ledger.charge(peer, swarm.join(peer), cost)
        state.swarms[key] = swarm
        return swarm

    def _charge_leecher(self, peer: PeerId, swarm: Swarm, location: Location) -> None:
        """A peer wants a blob, from a place; raises `_Refused`."""
        member, cost = swarm.members[peer], 0
        if peer not in swarm.leechers:
            cost += leecher_bytes(swarm.layout)
        if location not in member.places:
            cost += place_bytes(location.registry, location.repository)
        if not self._ledger.may_take(peer, cost):
            raise _Refused("this peer has told of as much as the supernode keeps for one")
        self._ledger.charge(peer, member, cost)
        member.wanting += cost

    @staticmethod
    def _swarm_of(state: _Peer, blob: NamesBlob) -> Swarm | None:
        """The swarm of a blob, where this peer is in it."""
        try:
            return state.swarms.get(key_of(blob))
        except InvalidMessage:
            return None

    def _open(self, peer: PeerId, state: _Peer, message: protocol.Open, now: float) -> None:
        opened: dict[BlobKey, Swarm] = {}
        for wanted in message.blobs:
            try:
                location = _location(wanted.registry, wanted.repository)
                layout = PieceLayout.of(wanted.size)
                have = pieces_of(wanted.have, layout) if wanted.have else 0
                coming = pieces_of(wanted.coming, layout) if wanted.coming else 0
                origin = self._origin(peer, location.registry)
                swarm = self._swarm(peer, state, wanted)
                if location not in swarm.members[peer].places and len(swarm.members[peer].places) >= _MAX_PLACES:
                    raise _Refused(f"more than {_MAX_PLACES} places of one blob")
                if not origin.may_want(peer, location):
                    raise _Refused("this peer wants blobs of too many repositories at a time")
                self._charge_leecher(peer, swarm, location)
            except (_Refused, InvalidMessage, InvalidReference) as error:
                self._outbox.refuse(peer, wanted, error)
                continue
            member = swarm.members[peer]
            self._update(peer, swarm, have, coming, now)
            member.complete, member.on_demand = False, wanted.on_demand
            member.places[location] = now if wanted.origin else float("inf")
            swarm.want(peer, preheats=wanted.preheats)
            self._origins[location.registry] = origin
            origin.want(peer, location, swarm)
            opened[swarm.key] = swarm
        familiar: Sequence[PeerId] = ()
        for swarm in opened.values():
            familiar = self._introduce(peer, swarm, familiar)
        self._decide(now)

    def _origin(self, peer: PeerId, registry: Registry) -> OriginLeases:
        """The leases of an origin, not yet kept where it is new; raises `_Refused`."""
        origin = self._origins.get(registry)
        if origin is None:
            if len(self._origins) >= _MAX_ORIGINS:
                raise _Refused(f"the supernode leads {_MAX_ORIGINS} origins already")
            if sum(each.is_wanted_by_none_but(peer) for each in self._origins.values()) >= _MAX_ORIGINS_EACH:
                raise _Refused(f"this peer alone wants blobs of {_MAX_ORIGINS_EACH} origins already")
            origin = OriginLeases(self._rng, self._ids, self._origin_slots)
        return origin

    def _introduce(self, peer: PeerId, swarm: Swarm, familiar: Sequence[PeerId] = ()) -> list[PeerId]:
        """Give a peer neighbours, and return them."""
        chosen = choose_neighbours(peer, swarm, self._contacts, self._rng, self._handout, familiar)
        swarm.introduce(peer, chosen)
        self._outbox.send([peer], protocol.Handout(*swarm.key, [self._peers[other].neighbour for other in chosen]))
        self._testimony.introduce(peer, swarm)
        if swarm.held & ~swarm.table.tabled:
            self._testimony.wanted(swarm)
        return chosen

    def _announce(self, peer: PeerId, state: _Peer, held: protocol.Held, now: float) -> None:
        swarm = state.swarms.get(key_of(held))
        is_new = swarm is None
        layout = swarm.layout if swarm is not None else PieceLayout.of(held.size)
        have = pieces_of(held.have, layout) if held.have else layout.all
        coming = pieces_of(held.coming, layout) if held.coming else 0
        if swarm is None:
            swarm = self._swarm(peer, state, held)
        member = swarm.members[peer]
        if swarm.is_wary:
            have = swarm.credit(peer, have, now, complete=not held.have)
        if coming or swarm.coming:
            self._update(peer, swarm, have, coming, now)
        elif have != member.have and (gained := swarm.update(peer, have)):
            self._shorten(swarm, gained)
        member.complete = not held.have
        if member.complete and peer in swarm.leechers:
            self._sated(peer, swarm)
        if not swarm.leechers:
            return
        if is_new:
            self._present(peer, swarm)
        if have & ~swarm.tabled:
            self._testimony.wanted(swarm)

    def _update(self, peer: PeerId, swarm: Swarm, have: PieceSet, coming: PieceSet, now: float) -> None:
        """A member tells what it has and what comes to it."""
        if swarm.is_wary:
            have = swarm.credit(peer, have, now, complete=False)
        if gained := swarm.update(peer, have):
            self._shorten(swarm, gained)
        if coming or peer in swarm.coming:
            swarm.expect(peer, coming, now + _COMING_SECONDS)
            self._expecting[swarm.key] = swarm

    def _shorten(self, swarm: Swarm, gained: PieceSet) -> None:
        """A member has come to have leased pieces."""
        for origin in self._origins.values():
            self._tell_decisions(origin.shorten(swarm, gained))

    def _present(self, peer: PeerId, swarm: Swarm) -> None:
        """A peer has come with pieces: leechers are told of it."""
        audience = choose_audience(peer, swarm, self._rng, self._handout)
        swarm.introduce(peer, audience)
        self._outbox.send(audience, protocol.Handout(*swarm.key, [self._peers[peer].neighbour]))

    def _seek(self, peer: PeerId, state: _Peer, message: protocol.Seek, now: float) -> None:
        for blob in message.blobs:
            swarm = self._swarm_of(state, blob)
            if swarm is None or now - swarm.members[peer].sought_at < _SEEK_SECONDS:
                continue
            swarm.members[peer].sought_at = now
            self._introduce(peer, swarm)

    def _starved(self, peer: PeerId, state: _Peer, message: protocol.Starved, now: float) -> None:
        swarm = self._swarm_of(state, message)
        if swarm is None or peer not in swarm.leechers:
            return
        try:
            pieces = pieces_of(message.pieces, swarm.layout)
        except InvalidMessage as error:
            self._outbox.refuse(peer, message, error)
            return
        swarm.starve(peer, pieces, now + _STARVED_SECONDS)
        swarm.doubt(peer, now)
        self._expecting[swarm.key] = swarm
        self._decide(now)

    def _sated(self, peer: PeerId, swarm: Swarm) -> None:
        """A peer wants nothing (more) of a swarm."""
        member = swarm.members[peer]
        swarm.sate(peer)
        for registry in {location.registry for location in member.places}:
            origin = self._origins.get(registry)
            if origin is None:
                continue
            for lease in origin.held_by(peer, swarm):
                origin.release(lease.id, peer)
            origin.unwant(peer, swarm)
            if origin.idle:
                del self._origins[registry]
        member.sate()
        self._ledger.charge(peer, member, -member.wanting)
        member.wanting = 0

    def _depart(self, peer: PeerId, swarm: Swarm) -> None:
        self._sated(peer, swarm)
        self._ledger.take(peer, -swarm.members[peer].cost)
        swarm.remove(peer)
        del self._peers[peer].swarms[swarm.key]
        if not swarm.members:
            self._testimony.gone(swarm.key)
            self._expecting.pop(swarm.key, None)
            del self.swarms[swarm.key]

    # --- leases ---------------------------------------------------------------------------------------------------

    def _progress(self, peer: PeerId, message: protocol.Progress, now: float) -> None:
        count = len(message.digests) // PIECE_DIGEST_SIZE
        for origin in self._origins.values():
            lease = origin.leases.get(LeaseId(message.lease))
            if lease is None:
                continue
            if not count:
                origin.stir(lease.id, peer, now)
            swarm, count = lease.swarm, min(count, lease.end - message.first)
            if count <= 0 or origin.progress(lease.id, peer, message.first, count, now) is None:
                return
            fetched = run_of(message.first, count)
            self.tally.again_bytes += swarm.layout.bytes_of(fetched & swarm.held)
            self.tally.first_bytes += swarm.layout.bytes_of(fetched & ~swarm.held)
            if peer in swarm.members:
                swarm.members[peer].brought(lease.location)
            firm = self._peers[peer].confirms and not message.second_hand
            pieces = range(message.first, message.first + count)
            self._testimony.report(peer, swarm, fetched, pieces, message.digests, now, firm=firm)
            if peer in swarm.members:
                have = swarm.members[peer].have | fetched
                swarm.update(peer, swarm.credit(peer, have, now, complete=False) if swarm.is_wary else have)
            self._decide(now)
            return

    def _release(self, peer: PeerId, message: protocol.Release, now: float) -> None:
        for origin in self._origins.values():
            lease = origin.release(LeaseId(message.lease), peer)
            if lease is None:
                continue
            places = lease.swarm.members[peer].places
            if message.reason == ReleaseReason.NO_RANGE:
                origin.ranges = False
            elif message.reason == ReleaseReason.DENIED:
                places[lease.location] = float("inf")
            elif message.reason != ReleaseReason.CLOSED:
                lease.swarm.members[peer].failed(lease.location, now)
            self._decide(now)
            return

    def lease_to_settle(self, swarm: Swarm, piece: int, parties: Collection[PeerId], now: float) -> PeerId | None:
        """See `supernode.testimony.Cluster`."""
        for origin in self._origins.values():
            granted = origin.settle(swarm, piece, parties, now)
            if granted is not None:
                self._tell_decisions([granted])
                return granted.lease.holder
        return None

    def expel(self, peer: PeerId, now: float) -> None:
        """See `supernode.testimony.Cluster`."""
        if peer in self._peers:
            self._outbox.send([peer], protocol.Refused("two others have contradicted this peer"))
            self.leave(peer, now)

    def _decide(self, now: float) -> None:
        granting = self._gathering_until is None or now >= self._gathering_until
        for registry, origin in self._origins.items():
            speaks = now >= self._quiet.until(registry, now)
            self._avoid(decisions := origin.decide(now, granting=granting and speaks), now)
            self._tell_decisions(decisions)

    def _quieten(self, peer: PeerId, message: protocol.Quiet, now: float) -> None:
        """An upstream is at its rate limit: nobody is to ask it, and nothing of it is leased, for a while."""
        seconds = self._quiet.say(peer, message.registry, message.seconds, now)
        if seconds:
            others = [other for other in self._peers if other != peer]
            self._outbox.send(others, protocol.Quiet(message.registry, seconds))

    @staticmethod
    def _avoid(decisions: Sequence[Decision], now: float) -> None:
        """A place that was silent to a lease's holder is left alone, where the holder named another one."""
        for decision in decisions:
            lease = decision.lease
            if isinstance(decision, Revoked) and lease.holder in lease.swarm.members:
                places = lease.swarm.members[lease.holder].places
                if len(places) > 1:
                    places[lease.location] = now + _FAILED_SECONDS

    def _tell_decisions(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            lease = decision.lease
            message: protocol.FromSupernode
            if isinstance(decision, Granted):
                place = lease.location
                count = lease.end - lease.next
                self.tally.granted += 1
                message = protocol.Grant(
                    lease.id, *lease.swarm.key, place.registry, place.repository, lease.next, count
                )
            elif isinstance(decision, Trimming):
                message = protocol.Trim(lease.id, decision.end)
            else:
                self.tally.revoked += 1
                message = protocol.Revoke(lease.id)
            self._outbox.send([lease.holder], message)

    def _reply(self, replies: Iterable[tuple[PeerId, protocol.FromSupernode]]) -> None:
        for peer, message in replies:
            if isinstance(message, protocol.Resolved):
                self.tally.answers[message.state] += 1
            self._outbox.send([peer], message)
        withdrawn, self._tags.withdrawn = self._tags.withdrawn, []
        for place in withdrawn:
            self._outbox.send(list(self._peers), protocol.Refresh(*place))


@functools.lru_cache(maxsize=4096)
def _location(registry: str, repository: str) -> Location:
    return Location.parse(registry, repository)
