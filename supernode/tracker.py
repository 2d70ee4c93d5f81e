"""The supernode's state machine: messages of peers go in, messages to peers come out. No I/O, no clock."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from shoal.digest import Digest, InvalidDigest
from shoal.messages import InvalidMessage
from shoal.pieces import PIECE_DIGEST_SIZE, PieceLayout, PieceSet, from_bitfield, iterate, run_of, to_bitfield
from shoal.reference import InvalidReference, Location, Registry
from supernode import protocol
from supernode.handout import MAX_NEIGHBOURS, Contact, choose_neighbours
from supernode.leases import ORIGIN_SLOTS, Granted, OriginLeases, Trimmed
from supernode.protocol import LeaseId, PeerId, ReleaseReason
from supernode.swarm import Swarm
from supernode.tags import Reply, TagTable

_BAN_SECONDS = 600.0
_ASK_AGAIN_SECONDS = 2.0
_NEWS_SECONDS_EACH = 50e-6
"""News of a swarm waits so long for each that hears of it: at most 20,000 messages a second, half of what is taken."""
_MAX_SWARMS_PER_PEER = 65_536

Outgoing = tuple[Sequence[PeerId], protocol.FromSupernode]


@dataclass(slots=True)
class _Peer:
    contact: Contact
    seen_at: float
    swarms: set[Digest] = field(default_factory=set)


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
        self._peers: dict[PeerId, _Peer] = {}
        self._contacts: dict[PeerId, Contact] = {}
        self._origins: dict[Registry, OriginLeases] = {}
        self._wants: dict[tuple[PeerId, Digest], Registry] = {}
        self._tags = TagTable(tag_freshness)
        self._news: dict[Digest, Swarm] = {}
        self._untold: dict[Digest, Swarm] = {}
        self._out: list[Outgoing] = []
        self.swarms: dict[Digest, Swarm] = {}

    # --- what happens ---------------------------------------------------------------------------------------------

    def join(self, peer: PeerId, contact: Contact, now: float) -> None:
        """A peer has connected; of an older connection of the same peer nothing stays."""
        if peer in self._peers:
            self.leave(peer, now)
        self._peers[peer] = _Peer(contact, now)
        self._contacts[peer] = contact

    def leave(self, peer: PeerId, now: float) -> None:
        """A peer is gone."""
        state = self._peers.pop(peer, None)
        if state is None:
            return
        del self._contacts[peer]
        for origin in self._origins.values():
            origin.drop(peer)
        for digest in list(state.swarms):
            self._depart(peer, digest)
        self._reply(self._tags.leave(peer, now))
        self._decide(now)

    def receive(self, peer: PeerId, message: protocol.FromPeer, now: float) -> None:
        """Take one message; raises `InvalidMessage` where it makes no sense."""
        if peer not in self._peers:
            raise InvalidMessage("not registered (any more)")
        self._peers[peer].seen_at = now
        match message:
            case protocol.Progress():
                self._progress(peer, message, now)
            case protocol.Announce():
                for held in message.blobs:  # what follows for leases can wait for the tick: most messages are announces
                    self._announce(peer, held)
            case protocol.Open():
                self._open(peer, message, now)
            case protocol.Resolve():
                self._reply(self._tags.resolve(peer, message, now))
            case protocol.Publish():
                self._reply(self._tags.publish(peer, message, now))
            case protocol.Close():
                for text in message.digests:
                    self._depart(peer, _digest(text))
                self._decide(now)
            case protocol.Release():
                self._release(peer, message, now)
            case protocol.Table():
                self._table(peer, message)
            case protocol.Corrupt():
                self._corrupt(peer, _digest(message.digest), now)
            case protocol.Hello():
                raise InvalidMessage("a second hello")

    def tick(self, now: float) -> None:
        """Tell news of piece digests, revoke leases that do not move, grant what is free, forget silent peers."""
        self._tell_news(now)
        self._ask_tables(now)
        self._reply(self._tags.expire(now))
        for peer in [peer for peer, state in self._peers.items() if now - state.seen_at > self._silence]:
            self._send([peer], protocol.Refused("silent for too long"))
            self.leave(peer, now)
        self._decide(now)

    def take(self) -> list[Outgoing]:
        """What is to be sent, in order; it is given once."""
        out, self._out = self._out, []
        return out

    @property
    def peers(self) -> int:
        return len(self._peers)

    @property
    def leases(self) -> int:
        return sum(len(origin.leases) for origin in self._origins.values())

    # --- swarms ---------------------------------------------------------------------------------------------------

    def _swarm(self, peer: PeerId, digest: Digest, size: int, bitfield: bytes) -> tuple[Swarm, PieceSet]:
        """The swarm of a blob, made where there is none, and the pieces of a bitfield; nothing is kept of what is not
        valid."""
        swarm = self.swarms.get(digest)
        if swarm is None:
            try:
                swarm = Swarm(digest, PieceLayout.of(size))
            except ValueError as error:
                raise InvalidMessage(str(error)) from None
        if swarm.layout.size != size:
            raise InvalidMessage(f"{digest} is of {swarm.layout.size} bytes, not of {size}")
        state = self._peers[peer]
        if len(state.swarms) >= _MAX_SWARMS_PER_PEER:
            raise InvalidMessage("too many swarms")
        have = _pieces(bitfield, swarm.layout) if bitfield else 0
        self.swarms[digest] = swarm
        state.swarms.add(digest)
        return swarm, have

    def _open(self, peer: PeerId, message: protocol.Open, now: float) -> None:
        for wanted in message.blobs:
            try:
                location = Location.parse(wanted.registry, wanted.repository)
            except InvalidReference as error:
                raise InvalidMessage(str(error)) from None
            swarm, have = self._swarm(peer, _digest(wanted.digest), wanted.size, wanted.have)
            member = swarm.update(peer, have)
            if self._wants.get((peer, swarm.digest), location.registry) != location.registry:
                self._unwant(peer, swarm)
            member.leeching, member.origin = True, wanted.origin
            if have & ~swarm.known:
                self._untold[swarm.digest] = swarm
            origin = self._origins.get(location.registry)
            if origin is None:
                origin = self._origins[location.registry] = OriginLeases(self._rng, self._ids, self._origin_slots)
            origin.want(peer, location, swarm)
            self._wants[peer, swarm.digest] = location.registry
            self._introduce(peer, swarm)
        self._decide(now)

    def _introduce(self, peer: PeerId, swarm: Swarm) -> None:
        chosen = choose_neighbours(peer, swarm.members, self._contacts, self._rng, self._handout)
        if not swarm.members[peer].neighbours:
            swarm.members[peer].neighbours = len(chosen)
            for other in chosen:
                swarm.members[other].neighbours += 1
        contacts = [
            protocol.Neighbour(other, self._contacts[other].host, self._contacts[other].port) for other in chosen
        ]
        self._send([peer], protocol.Handout(swarm.digest, contacts))
        if swarm.known:
            self._send([peer], self._digests(swarm, swarm.known))
        if swarm.held & ~swarm.known:
            self._untold[swarm.digest] = swarm

    def _announce(self, peer: PeerId, held: protocol.Held) -> None:
        swarm, have = self._swarm(peer, _digest(held.digest), held.size, held.have)
        have = have if held.have else swarm.layout.all
        member = swarm.update(peer, have)
        if have & ~swarm.known and any(other.leeching for other in swarm.members.values()):
            self._untold[swarm.digest] = swarm
        if member.leeching and have == swarm.layout.all:
            self._sated(peer, swarm)

    def _sated(self, peer: PeerId, swarm: Swarm) -> None:
        """A peer wants nothing (more) of a swarm."""
        swarm.members[peer].leeching = False
        self._unwant(peer, swarm)

    def _unwant(self, peer: PeerId, swarm: Swarm) -> None:
        registry = self._wants.pop((peer, swarm.digest), None)
        if registry is not None:
            origin = self._origins[registry]
            for lease in origin.held_by(peer, swarm):
                origin.release(lease.id, peer)
            origin.unwant(peer, swarm)
            if origin.idle:
                del self._origins[registry]

    def _depart(self, peer: PeerId, digest: Digest) -> None:
        swarm = self.swarms.get(digest)
        if swarm is None or peer not in swarm.members:
            return
        self._sated(peer, swarm)
        swarm.remove(peer)
        if peer in self._peers:
            self._peers[peer].swarms.discard(digest)
        if not swarm.members:
            del self.swarms[digest]
            self._news.pop(digest, None)
            self._untold.pop(digest, None)

    # --- leases ---------------------------------------------------------------------------------------------------

    def _progress(self, peer: PeerId, message: protocol.Progress, now: float) -> None:
        count = len(message.digests) // PIECE_DIGEST_SIZE
        for origin in self._origins.values():
            lease = origin.progress(LeaseId(message.lease), peer, message.first, count, now)
            if lease is None:
                continue
            swarm = lease.swarm
            fetched = run_of(message.first, count) & swarm.layout.all
            swarm.update(peer, swarm.members[peer].have | fetched)
            swarm.report(peer, range(message.first, min(message.first + count, swarm.layout.count)), message.digests)
            self._news[swarm.digest] = swarm
            self._decide(now)
            return

    def _release(self, peer: PeerId, message: protocol.Release, now: float) -> None:
        for origin in self._origins.values():
            lease = origin.release(LeaseId(message.lease), peer)
            if lease is None:
                continue
            if message.reason == ReleaseReason.NO_RANGE:
                origin.ranges = False
            elif message.reason != ReleaseReason.CLOSED:
                lease.swarm.members[peer].origin = False
            self._decide(now)
            return

    def _decide(self, now: float) -> None:
        for origin in self._origins.values():
            for decision in origin.decide(now):
                lease = decision.lease
                message: protocol.FromSupernode
                if isinstance(decision, Granted):
                    count = lease.end - lease.next
                    message = protocol.Grant(lease.id, lease.swarm.digest, lease.next, count)
                elif isinstance(decision, Trimmed):
                    message = protocol.Trim(lease.id, lease.end)
                else:
                    message = protocol.Revoke(lease.id)
                self._send([lease.holder], message)

    # --- piece digests --------------------------------------------------------------------------------------------

    def _digests(self, swarm: Swarm, pieces: PieceSet) -> protocol.PieceDigests:
        return protocol.PieceDigests(swarm.digest, to_bitfield(pieces, swarm.layout.count), swarm.digests_of(pieces))

    def _tell_news(self, now: float) -> None:
        """Tell leechers of new piece digests: the more there are, the more rarely, else news is all that is done."""
        for digest, swarm in list(self._news.items()):
            if now < swarm.news_due:
                continue
            del self._news[digest]
            if swarm.news:
                leechers = list(swarm.leechers)
                self._send(leechers, self._digests(swarm, swarm.news))
                swarm.news, swarm.news_due = 0, now + len(leechers) * _NEWS_SECONDS_EACH

    def _ask_tables(self, now: float) -> None:
        """Pieces without a digest are of no use to the swarm: ask those who have them, one at a time."""
        for digest, swarm in list(self._untold.items()):
            untold = swarm.held & ~swarm.known
            if not untold:
                del self._untold[digest]
                continue
            if any(now - asked < _ASK_AGAIN_SECONDS for asked in swarm.asked.values()):
                continue
            holders = [peer for peer, member in swarm.members.items() if member.have & untold]
            longest_ago = min(holders, key=lambda peer: (swarm.asked.get(peer, 0.0), self._rng.random()))
            swarm.asked[longest_ago] = now
            self._send([longest_ago], protocol.NeedTable(digest))

    def _table(self, peer: PeerId, message: protocol.Table) -> None:
        swarm = self.swarms.get(_digest(message.digest))
        if swarm is None or peer not in swarm.members:
            return
        pieces = _pieces(message.pieces, swarm.layout)
        if len(message.digests) != pieces.bit_count() * PIECE_DIGEST_SIZE:
            raise InvalidMessage("a table of the wrong length")
        swarm.asked.pop(peer, None)
        swarm.report(peer, iterate(pieces), message.digests)
        self._news[swarm.digest] = swarm

    def _corrupt(self, peer: PeerId, digest: Digest, now: float) -> None:
        swarm = self.swarms.get(digest)
        if swarm is None or peer not in swarm.members or not swarm.table:
            return
        for origin in self._origins.values():
            for lease in [lease for lease in origin.leases.values() if lease.swarm is swarm]:
                origin.release(lease.id, lease.holder)
                self._send([lease.holder], protocol.Revoke(lease.id))
        swarm.void(now + _BAN_SECONDS)
        self._send(list(swarm.members), protocol.Void(digest))
        self._decide(now)

    def _reply(self, replies: list[Reply]) -> None:
        for peer, message in replies:
            self._send([peer], message)

    def _send(self, peers: Sequence[PeerId], message: protocol.FromSupernode) -> None:
        if peers:
            self._out.append((peers, message))


@functools.lru_cache(maxsize=4096)
def _digest(text: str) -> Digest:
    try:
        return Digest(text)
    except InvalidDigest as error:
        raise InvalidMessage(str(error)) from None


def _pieces(bitfield: bytes, layout: PieceLayout) -> PieceSet:
    try:
        return from_bitfield(bitfield, layout.count)
    except ValueError as error:
        raise InvalidMessage(str(error)) from None
