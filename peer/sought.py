"""What a peer knows of one blob that it gets: its pieces, where it may come from, and who waits for it. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from peer.arrivals import Delivery
from peer.asked import Asked, Behind
from peer.origin import OriginDenied, OriginNotFound, SizeDiffers
from peer.picker import BlobBook
from peer.piecemap import PieceMap
from shoal.descriptor import BlobKey
from shoal.pieces import PIECE_DIGEST_SIZE, PieceLayout, PieceSet, iterate, set_of
from shoal.reference import Location
from supernode.protocol import PeerId

_MOST_FAILURES, _FAILING_SECONDS = 3, 3.0
"""Streams in a row that bring nothing, and the seconds over which they do, before a place is left alone for a while."""
_REST_SECONDS = 2.0
_REFUSED_SECONDS = 1.0
"""For which a place's refusal is the answer to all who name it, while others get the blob elsewhere."""


@dataclass(slots=True)
class Place:
    """One place in an origin that a client named, and how it has behaved."""

    location: Location
    failures: int = 0
    """Streams in a row that ended without a whole piece."""
    failing_since: float = 0.0
    rests_until: float = 0.0
    error: Exception | None = None
    """The last failure."""
    is_final: bool = False
    """Whether it has refused the blob."""
    refused_at: float = 0.0
    ranges: bool = True
    """Whether it answers range requests."""

    def failed(self, error: Exception, now: float) -> None:
        """A stream from here ended early."""
        self.error = error
        self.is_final = isinstance(error, OriginDenied | OriginNotFound | SizeDiffers)
        self.refused_at = now
        if not self.failures:
            self.failing_since = now
        self.failures += 1
        if self.is_failing and now - self.failing_since >= _FAILING_SECONDS:
            self.rests_until = now + _REST_SECONDS

    def brought(self) -> None:
        """A whole piece came from here."""
        self.failures, self.rests_until = 0, 0.0

    @property
    def is_failing(self) -> bool:
        """Whether it only begins to bring pieces."""
        return self.failures >= _MOST_FAILURES

    def may_have_changed(self, now: float) -> bool:
        """Whether it has refused the blob so long ago that it is worth asking again for another client."""
        return self.is_final and now - self.refused_at > _REFUSED_SECONDS

    def is_usable(self, now: float) -> bool:
        return not self.is_final and self.rests_until <= now


@dataclass(eq=False, slots=True)
class Sought:
    """A blob on its way. Times are in seconds of any monotonic clock."""

    key: BlobKey
    pieces: PieceMap
    book: BlobBook
    moved_at: float
    """When something of it came last, other than from a place that brings no whole piece."""
    places: dict[Location, Place] = field(default_factory=dict)
    table: dict[int, bytes] = field(default_factory=dict)
    """The digests by which pieces are checked, and those of pieces that are there."""
    hearsay: PieceSet = 0
    """Pieces whose digest a neighbour told that fetched them, and no supernode."""
    own: PieceSet = 0
    """Pieces that are there and came from an origin to this peer."""
    delivery: Delivery = field(default_factory=Delivery)
    contacts: dict[PeerId, tuple[str, int]] = field(default_factory=dict)
    """Where the neighbours of its handouts take connections."""
    coming: dict[PeerId, tuple[PieceSet, float]] = field(default_factory=dict)
    """The pieces that come to neighbours from an origin without a lease, and when they told it."""
    suspects: dict[PeerId, dict[int, bytes]] = field(default_factory=dict)
    """The digests that neighbours' pieces were to have and had not; who is right the whole blob shows."""
    broken: PieceSet = 0
    """Pieces that a neighbour claimed and did not have, or not as they were to be."""
    disputed: PieceSet = 0
    """Pieces of which the supernode has told different digests, or has taken one back: who sends what matches another
    one may have been deceived."""
    waits: dict[int, float] = field(default_factory=dict)
    """Since when each reader waits that does."""
    unanswered: dict[int, float] = field(default_factory=dict)
    """Since when each reader waits for its first byte that does."""
    is_whole: bool = True
    """Whether all of it is to be got at once, and not behind the ranges that readers wait for."""
    idle_since: float = 0.0
    """When its last reader left."""
    demanded: bool = False
    """Whether a client has asked for it, not only for a blob before it."""
    is_answered: bool = False
    """Whether the supernode has said something of it since it was told."""
    is_refused: bool = False
    """Whether the supernode has no place for it."""
    has_begun_again: bool = False
    """Whether the whole was wrong once: no neighbour's word on what its pieces are is taken since."""
    is_solitary: bool = False
    """Whether the whole was wrong twice: it comes from origins alone since."""
    passes: bool = False
    """Whether it passes by the store: a piece is held as long as somebody here needs it, and is nobody else's."""
    filed: PieceSet = 0
    """Of a blob that passes: pieces that lie in the file of before, and need no memory."""
    hashed: int | None = 0
    """Of a blob that passes: how many of its pieces the hash of the whole has seen. None: it is verified."""
    later: PieceSet = 0
    """Of a blob that passes: all pieces that its readers still need."""
    opened_at: float = 0.0
    told_at: float = 0.0
    """When the supernode was told of it last, as a blob that this peer opens."""
    starved_at: float = 0.0
    starved: PieceSet = 0
    """What the supernode was told last that this peer starves for."""
    deceived_until: float = 0.0
    """Until when it is taken that neighbours claim pieces of it which they do not give."""
    most_sharers: int = 0
    """Neighbours that shared it at a time, at most."""
    sought_at: float = 0.0
    """When the supernode was asked for more neighbours last."""

    @property
    def layout(self) -> PieceLayout:
        return self.pieces.layout

    @property
    def from_neighbours(self) -> PieceSet:
        """Pieces that are there and came from other peers."""
        return self.pieces.there & ~self.own

    def widen(self, asked: Asked | None) -> None:
        """What a client asks for is to be got as well; None: all of it."""
        if self.passes:
            return  # what readers need next is to be got, wherever they stand
        if asked is None or asked.behind is not Behind.NOTHING:
            self.book.scope = self.layout.all
        else:
            self.book.scope |= asked.pieces(self.layout)
        self.is_whole = self.is_whole or asked is None or asked.behind is Behind.IMAGE

    def place(self, now: float) -> Place | None:
        """The place to fetch from now: of those that are usable the one with fewest failures, first named first."""
        usable = [place for place in self.places.values() if place.is_usable(now)]
        return min(usable, key=lambda place: place.failures, default=None)

    def suspected(self, peer: PeerId) -> PieceSet:
        """Pieces that a neighbour has sent otherwise than the table said."""
        return set_of(self.suspects.get(peer, ()))

    def liars(self) -> list[PeerId]:
        """The blob is verified: neighbours that sent pieces otherwise than the right digest said, undisputed."""
        return [
            peer
            for peer, expected in self.suspects.items()
            if any(
                self.table.get(piece) == digest and not self.disputed >> piece & 1 for piece, digest in expected.items()
            )
        ]

    def dispute(self, pieces: PieceSet) -> list[PeerId]:
        """What was told of these pieces may be wrong: returns the neighbours whose pieces did not match it, which are
        asked again."""
        self.disputed |= pieces
        self.broken &= ~pieces
        absolved: list[PeerId] = []
        for peer, expected in list(self.suspects.items()):
            cleared = [piece for piece in expected if pieces >> piece & 1]
            for piece in cleared:
                del expected[piece]
            if cleared and peer in self.book.holders:
                self.book.gained(peer, set_of(cleared))
                absolved.append(peer)
            if not expected:
                del self.suspects[peer]
        return absolved

    def contradicted(self, pieces: Iterable[int], digests: bytes) -> PieceSet:
        """Of `pieces` those whose digest is known as another one than these, which stand one behind the other."""
        known = self.table
        return set_of(
            index
            for place, index in enumerate(pieces)
            if index in known and known[index] != digests[place * PIECE_DIGEST_SIZE : (place + 1) * PIECE_DIGEST_SIZE]
        )

    def error(self) -> Exception | None:
        """The last failure of any place."""
        errors = [place.error for place in self.places.values() if place.error is not None]
        return errors[-1] if errors else None

    def learn(self, pieces: Iterable[int], digests: bytes, *, hearsay: bool) -> None:
        """Digests of `pieces`, one behind the other, by which they can be checked. What is there keeps its own."""
        if self.is_solitary or (hearsay and self.has_begun_again):
            return
        for place, index in enumerate(pieces):
            bit = 1 << index
            if self.pieces.there & bit or (hearsay and index in self.table):
                continue
            self.table[index] = digests[place * PIECE_DIGEST_SIZE : (place + 1) * PIECE_DIGEST_SIZE]
            self.hearsay = self.hearsay | bit if hearsay else self.hearsay & ~bit
            self.book.checkable |= bit

    def forget(self, pieces: PieceSet) -> None:
        """The digests of these pieces are void."""
        for index in list(iterate(pieces & self.layout.all)):
            self.table.pop(index, None)
        self.hearsay &= ~pieces
        self.own &= ~pieces
        self.book.checkable &= ~pieces

    def digests(self, pieces: PieceSet) -> tuple[PieceSet, bytes]:
        """Those of `pieces` whose digests are known, and these, ascending."""
        known = [index for index in iterate(pieces) if index in self.table]
        return set_of(known), b"".join(self.table[index] for index in known)

    def coming_elsewhere(self, now: float, fresh: float) -> PieceSet:
        """Pieces that neighbours are fetching, as they told in the last `fresh` seconds."""
        coming = 0
        for pieces, told_at in self.coming.values():
            if now - told_at < fresh:
                coming |= pieces
        return coming
