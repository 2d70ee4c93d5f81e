"""One swarm: the peers that have or want one blob, the pieces that each has, and the pieces' digests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from shoal.digest import Digest
from shoal.pieces import PIECE_DIGEST_SIZE, PieceLayout, PieceSet, iterate
from supernode.protocol import PeerId


@dataclass(slots=True)
class Member:
    """A peer in a swarm: the pieces it said it has, whether it wants the rest, and may fetch it from the origin.

    `neighbours` is the number of members that it was told of or that were told of it, with those that have left since.
    """

    have: PieceSet = 0
    leeching: bool = False
    origin: bool = False
    neighbours: int = 0


@dataclass(slots=True)
class Swarm:
    """State of one blob. No I/O, no clock.

    `free` are the pieces that no member has and no lease covers: somebody has to fetch them from the origin.
    `table` maps a piece to its digest, `reporters` to the peer that told it.
    """

    digest: Digest
    layout: PieceLayout
    members: dict[PeerId, Member] = field(default_factory=dict)
    leased: PieceSet = 0
    free: PieceSet = 0
    known: PieceSet = 0
    table: dict[int, bytes] = field(default_factory=dict)
    reporters: dict[int, PeerId] = field(default_factory=dict)
    news: PieceSet = 0
    """Pieces whose digests the members have not been told yet."""
    news_due: float = 0.0
    """When they may be told next, in seconds of the tracker's clock."""
    asked: dict[PeerId, float] = field(default_factory=dict)
    """When members were asked for piece digests."""
    banned: dict[PeerId, float] = field(default_factory=dict)
    """Peers whose reports led to a wrong blob, and until when they get no lease."""

    def __post_init__(self) -> None:
        self.free = self.layout.all

    def update(self, peer: PeerId, have: PieceSet) -> Member:
        """A peer tells which pieces it has; what it no longer has may become free."""
        member = self.members.setdefault(peer, Member())
        lost = member.have & ~have
        member.have = have
        self.free &= ~have
        if lost:
            self.recount()
        return member

    def remove(self, peer: PeerId) -> None:
        """A peer leaves; what only it had is free again."""
        member = self.members.pop(peer, None)
        self.asked.pop(peer, None)
        if member is not None and member.have:
            self.recount()

    def recount(self) -> None:
        """Work out anew which pieces are free."""
        self.free = self.layout.all & ~self.leased & ~self.held

    @property
    def held(self) -> PieceSet:
        """Pieces that some member has."""
        held = 0
        for member in self.members.values():
            held |= member.have
            if held == self.layout.all:
                break
        return held

    @property
    def leechers(self) -> Iterable[PeerId]:
        return (peer for peer, member in self.members.items() if member.leeching)

    def report(self, peer: PeerId, pieces: Iterable[int], digests: bytes) -> None:
        """Take piece digests that `peer` reports. The first report of a piece stands."""
        for place, index in enumerate(pieces):
            if index not in self.table:
                self.table[index] = digests[place * PIECE_DIGEST_SIZE : (place + 1) * PIECE_DIGEST_SIZE]
                self.reporters[index] = peer
                self.known |= 1 << index
                self.news |= 1 << index

    def digests_of(self, pieces: PieceSet) -> bytes:
        """The digests of `pieces`, all of which are known, in ascending order."""
        return b"".join(self.table[index] for index in iterate(pieces))

    def void(self, until: float) -> set[PeerId]:
        """Forget all digests and who has what; those who reported them are banned until `until`. Returns them."""
        guilty = set(self.reporters.values())
        for peer in guilty:
            self.banned[peer] = until
        self.table.clear()
        self.reporters.clear()
        self.known = self.news = 0
        for member in self.members.values():
            member.have = 0
        self.recount()
        return guilty
