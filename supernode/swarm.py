"""One swarm: the peers that have or want one blob, and the pieces that each has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from shoal.descriptor import BlobKey
from shoal.pieces import PieceLayout, PieceSet
from shoal.reference import Location
from supernode.counts import PieceCounts
from supernode.protocol import PeerId
from supernode.tables import PieceTable

DOUBT_SECONDS = 60.0
"""How long a claim to have pieces counts for nothing whose member does not give them."""
_MAX_RETRACTIONS = 3
"""An honest member takes a claim back when its blob begins again, and when it finds pieces damaged."""


_REST_SECONDS, _DOUBLINGS, _MOST_REST_SECONDS = 1.0, 5, 30.0
"""How long a peer gets no lease for a place that has failed it, doubled each time it does so again: an origin that
fails for a moment is to be used at once when it is back, and one that this peer cannot reach is no use to anybody."""


@dataclass(slots=True, eq=False)
class Member:
    """A peer in a swarm and the pieces it said it has."""

    have: PieceSet = 0
    complete: bool = False
    """Whether it said that it has the whole blob and verified it."""
    places: dict[Location, float] = field(default_factory=dict)
    """Where an origin keeps the blob for it, and from when on it may fetch from there, in the tracker's seconds."""
    failures: dict[Location, int] = field(default_factory=dict)
    """How often in a row a place has failed it."""
    on_demand: bool = False
    """Whether it fetches from an origin nothing but what it starves for."""
    preheats: bool = False
    """Whether no client of it waits for the blob."""
    neighbours: set[PeerId] = field(default_factory=set)
    """The members that it was told of or that were told of it."""
    sought_at: float = float("-inf")
    """When it was last given neighbours because it asked for more."""
    cost: int = 0
    """Bytes that are counted for it."""
    wanting: int = 0
    """Those of them that are counted as long as it wants pieces."""
    retractions: int = 0
    """How often it has taken a claim to have pieces back."""
    doubted_until: float = float("-inf")
    """Until when nothing counts as had by it, and nothing is leased to it."""

    def failed(self, location: Location, now: float) -> None:
        """A place has failed it: it is leased nothing there for a while, for longer each time."""
        count = self.failures.get(location, 0)
        self.failures[location] = count + 1
        self.places[location] = now + min(_REST_SECONDS * 2 ** min(count, _DOUBLINGS), _MOST_REST_SECONDS)

    def brought(self, location: Location) -> None:
        """A place has given it something."""
        self.failures.pop(location, None)

    def sate(self) -> None:
        """It wants nothing more."""
        self.places.clear()
        self.failures.clear()


@dataclass(frozen=True, slots=True)
class Starvation:
    """What a leecher waits for and nobody gives it."""

    pieces: PieceSet
    again: PieceSet
    """Those of the pieces that it told before as well: that others have them has not helped."""
    until: float
    """How long this is believed, in the tracker's seconds: who goes on starving says it again."""


@dataclass(slots=True, eq=False)
class Swarm:
    """State of one blob. No I/O, no clock.

    `free` are the pieces that no member has, no lease covers and no origin is sending to anybody: somebody has to fetch
    them.
    """

    key: BlobKey
    layout: PieceLayout
    all: PieceSet = field(init=False)
    free: PieceSet = field(init=False)
    leased: PieceSet = 0
    members: dict[PeerId, Member] = field(default_factory=dict)
    leechers: dict[PeerId, Member] = field(default_factory=dict)
    """The members that want pieces they lack."""
    coming: dict[PeerId, tuple[PieceSet, float]] = field(default_factory=dict)
    """Pieces that come to members from an origin without a lease, and until when that is believed."""
    starved: dict[PeerId, Starvation] = field(default_factory=dict)
    """What leechers wait for: they may fetch it from an origin before others, and what others have as well."""
    apart: set[PeerId] = field(default_factory=set)
    """Leechers that call the blob wrong, which nobody else has done: they are told no piece digests, and may fetch all
    of it from an origin."""
    preheaters: int = 0
    """Leechers of which no client waits for the blob."""
    is_wary: bool = False
    """Whether not all that members say that they have is taken as had."""
    _table: PieceTable | None = None
    _counts: PieceCounts = field(default_factory=PieceCounts)

    def __post_init__(self) -> None:
        self.all = self.free = self.layout.all

    @property
    def table(self) -> PieceTable:
        """The digests of its pieces; most swarms are of seeds alone and need none."""
        if self._table is None:
            self._table = PieceTable()
        return self._table

    @property
    def tabled(self) -> PieceSet:
        """Pieces whose digest is known."""
        return 0 if self._table is None else self._table.tabled

    @property
    def is_distrusted(self) -> bool:
        """Whether its table was voided and nobody knows yet who lied."""
        return self._table is not None and self._table.is_distrusted

    def has_words_of(self, peer: PeerId) -> bool:
        """Whether anything in its table is a peer's word."""
        return self._table is not None and self._table.has_words_of(peer)

    def join(self, peer: PeerId) -> Member:
        """The member that stands for a peer, from now on."""
        member = self.members.get(peer)
        if member is None:
            member = self.members[peer] = Member()
        return member

    def update(self, peer: PeerId, have: PieceSet) -> PieceSet:
        """A member tells which pieces it has; what it no longer has may become free.

        Returns the pieces that it did not have before and over which somebody has a lease.
        """
        member = self.members[peer]
        kept = member.have & have
        gained, lost = have ^ kept, member.have ^ kept
        member.have = have
        if gained:
            self._counts.add(gained)
            if self.free:
                self.free &= ~gained
        if lost:
            self._counts.remove(lost)
            self.recount()
            member.retractions += 1
            if member.retractions > _MAX_RETRACTIONS:
                member.doubted_until, self.is_wary = float("inf"), True
        if self.starved and peer in self.starved:
            self._feed(peer, have)
        return gained & self.leased

    def expect(self, peer: PeerId, pieces: PieceSet, until: float) -> None:
        """A member tells which pieces come to it from an origin without a lease; it replaces what it told before."""
        before, _ = self.coming.pop(peer, (0, 0.0))
        if pieces:
            self.coming[peer] = pieces, until
            self.free &= ~pieces
        if before & ~pieces:
            self.recount()

    def expire(self, now: float) -> None:
        """Pieces that were to come and whose time is over are for others; who does not say so again starves no more."""
        for fed in [peer for peer, starvation in self.starved.items() if starvation.until <= now]:
            del self.starved[fed]
        late = [peer for peer, (_, until) in self.coming.items() if until <= now]
        for peer in late:
            del self.coming[peer]
        if late:
            self.recount()

    def starve(self, peer: PeerId, pieces: PieceSet, until: float) -> None:
        """A leecher waits for these pieces and nobody gives them; it replaces what it told before."""
        before = self.starved.pop(peer, None)
        if pieces:
            self.starved[peer] = Starvation(pieces, pieces & before.pieces if before is not None else 0, until)

    def _feed(self, peer: PeerId, pieces: PieceSet) -> None:
        """A leecher starves for these pieces no more."""
        starvation = self.starved.pop(peer)
        if starvation.pieces & ~pieces:
            self.starved[peer] = Starvation(starvation.pieces & ~pieces, starvation.again & ~pieces, starvation.until)

    def fetched(self, pieces: PieceSet) -> None:
        """Pieces have come from an origin: nobody starves for them any more."""
        for peer in list(self.starved):
            self._feed(peer, pieces)

    def starving(self, peer: PeerId) -> PieceSet:
        """The pieces that a peer starves for and that come to nobody from an origin. Those that others have are among
        them when it has said so twice: the first time they may be on their way."""
        if peer in self.apart:
            return self.all & ~(self.members[peer].have | self.leased | self._expected)
        starvation = self.starved.get(peer)
        if starvation is None:
            return 0
        starving = (starvation.pieces & self.free | starvation.again) & ~self.leased & ~self._expected
        return self._of_others(peer, starving)

    def free_for(self, peer: PeerId) -> PieceSet:
        """The pieces that somebody has to fetch and that this peer may."""
        return self._of_others(peer, self.free)

    @property
    def needs_origin(self) -> bool:
        """Whether anybody may have anything to fetch from an origin."""
        return bool(self.free or self.starved or self.apart)

    def credit(self, peer: PeerId, have: PieceSet, now: float, *, complete: bool) -> PieceSet:
        """A member says that it has these pieces; returns what is taken as had by it.

        Where a table was voided that is nothing that it had reported itself, and of one that has not verified the
        whole blob only what others have reported since. Without `is_wary` it is all.
        """
        if now < self.members[peer].doubted_until:
            return 0
        if not self.is_distrusted:
            return have
        return have & ~self.table.past_of(peer) & (self.all if complete else self.table.tabled)

    def _of_others(self, peer: PeerId, pieces: PieceSet) -> PieceSet:
        """Of these pieces those that this peer has not reported itself before their table was voided, unless it is
        alone."""
        if not pieces or not self.is_distrusted or len(self.leechers) == 1:
            return pieces
        return pieces & ~self.table.past_of(peer)

    @property
    def is_pulled(self) -> bool:
        """Whether somewhere a client waits for the blob."""
        return len(self.leechers) > self.preheaters

    def want(self, peer: PeerId, *, preheats: bool) -> None:
        """A member wants the pieces that it lacks; `preheats`: no client of it waits for them."""
        member = self.members[peer]
        self.preheaters += preheats - (peer in self.leechers and member.preheats)
        member.preheats = preheats
        self.leechers[peer] = member

    def sate(self, peer: PeerId) -> None:
        """A member wants no more pieces."""
        leecher = self.leechers.pop(peer, None)
        self.preheaters -= leecher is not None and leecher.preheats
        self.starved.pop(peer, None)
        self.apart.discard(peer)

    def introduce(self, peer: PeerId, others: Sequence[PeerId]) -> None:
        """A member is told of others, or these of it."""
        self.members[peer].neighbours.update(others)
        for other in others:
            self.members[other].neighbours.add(peer)

    def remove(self, peer: PeerId) -> None:
        """A peer leaves; what only it had is free again."""
        member = self.members.pop(peer)
        self.sate(peer)
        if self._table is not None:
            self._table.forget(peer)
        for other in member.neighbours:
            self.members[other].neighbours.discard(peer)
        came, _ = self.coming.pop(peer, (0, 0.0))
        self._counts.remove(member.have)
        if member.have | came:
            self.recount()

    def void(self, pieces: PieceSet) -> list[PeerId]:
        """These pieces were checked by wrong digests, and are nobody's who has not verified the whole blob. Returns the
        members that have to fetch them again."""
        deceived = [peer for peer, member in self.members.items() if not member.complete]
        for peer, member in self.members.items():
            kept = ~pieces if peer in deceived else ~self.table.past_of(peer)
            have = member.have & kept
            self._counts.remove(member.have & ~have)
            member.have = have
        self.starved.clear()
        self.apart.clear()
        self.recount()
        self.is_wary = True
        return deceived

    def doubt(self, peer: PeerId, now: float) -> None:
        """A leecher starves again, now that others have had time to give what they have. Who alone claims to have what
        it starves for gives nothing, when a second member starves for that too, or there is no other one: for a while
        its claim keeps nobody from fetching the pieces, and it fetches none for others."""
        starvation = self.starved.get(peer)
        sole = starvation.again & self._counts.once & ~self._counts.twice if starvation is not None else 0
        if not sole:
            return
        for other, member in self.members.items():
            pieces = member.have & sole
            if other == peer or not pieces:
                continue
            seconded = any(each.pieces & pieces for name, each in self.starved.items() if name not in (peer, other))
            if seconded or not self.leechers.keys() - {peer, other}:
                member.doubted_until, self.is_wary = now + DOUBT_SECONDS, True
                self.update(other, 0)

    def is_passed_over(self, peer: PeerId, now: float) -> bool:
        """Whether a member that is doubted leaves what there is to fetch to others that are not."""
        if now >= self.members[peer].doubted_until:
            return False
        return any(now >= other.doubted_until for other in self.leechers.values())

    def set_apart(self, peer: PeerId) -> None:
        """A leecher calls the blob wrong and begins again by itself."""
        self.apart.add(peer)
        self.update(peer, 0)

    def recount(self) -> None:
        """Work out anew which pieces are free."""
        self.free = self.all & ~(self.leased | self._expected | self.held)

    @property
    def held(self) -> PieceSet:
        """Pieces that some member has."""
        return self._counts.once

    def held_by_others(self, peer: PeerId) -> PieceSet:
        """Pieces that some member besides this one has."""
        return self._counts.twice | (self._counts.once & ~self.members[peer].have)

    @property
    def _expected(self) -> PieceSet:
        expected = 0
        for pieces, _ in self.coming.values():
            expected |= pieces
        return expected
