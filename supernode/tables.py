"""The digests of one blob's pieces: who is believed, and who is not believed any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from shoal.pieces import PIECE_DIGEST_SIZE, PieceSet, iterate, set_of
from supernode.protocol import PeerId

BAN_SECONDS = 600.0
"""How long a peer whose digests led to a wrong blob is neither believed nor given a lease for that blob."""
_COMPLAINT_SECONDS = 60.0
"""A peer may call a table wrong once in so many seconds."""
_SETTLE_SECONDS = 1.0
"""Complaints that arrive so soon after a table was voided are about the voided one."""


@dataclass(slots=True, eq=False)
class PieceTable:
    """Piece digests as they were reported, by whom, and what the members still have to hear of them.

    The first report of a piece stands. Only a firm one (of a leaseholder or of a holder of the whole blob) replaces
    another, and only one that was not firm.
    """

    tabled: PieceSet = 0
    """Pieces whose digest is here."""
    news: PieceSet = 0
    """Pieces whose digests the members have not been told yet."""
    news_due: float = 0.0
    """When they may be told next, in seconds of the tracker's clock."""
    ask_due: float = 0.0
    """When a member may be asked for digests next."""
    asked: dict[PeerId, float] = field(default_factory=dict)
    """When members were asked for digests that they have not given yet."""
    banned: dict[PeerId, float] = field(default_factory=dict)
    """Peers whose reports led to a wrong blob, and until when nothing is believed of them."""
    _weak: PieceSet = 0
    """Pieces whose digest was not reported firmly."""
    _digests: dict[int, bytes] = field(default_factory=dict)
    _reporters: dict[int, PeerId] = field(default_factory=dict)
    _packed: tuple[PieceSet, bytes] = (0, b"")
    """What was asked for last, which many who come at one time are told."""
    _complaints: dict[PeerId, float] = field(default_factory=dict)
    _voided_at: float = float("-inf")

    def report(self, peer: PeerId, pieces: PieceSet, among: Iterable[int], digests: bytes, firm: bool) -> None:
        """Take the digests of `pieces`; `digests` holds those of all pieces of `among`, in its order."""
        taken = pieces & ~(self.tabled & ~self._weak if firm else self.tabled)
        if not taken:
            return
        indices, news = set(iterate(taken)), []
        for place, index in enumerate(among):
            if index not in indices:
                continue
            digest = digests[place * PIECE_DIGEST_SIZE : (place + 1) * PIECE_DIGEST_SIZE]
            if self._digests.get(index) != digest:
                news.append(index)
            self._digests[index], self._reporters[index] = digest, peer
        if news:
            self.news |= set_of(news)
            self._packed = (0, b"")
        self.tabled |= taken
        self._weak = self._weak & ~taken if firm else self._weak | taken

    def digests_of(self, pieces: PieceSet) -> bytes:
        """The digests of `pieces`, all of which are tabled, in ascending order."""
        if self._packed[0] != pieces:
            self._packed = pieces, b"".join([self._digests[index] for index in iterate(pieces)])
        return self._packed[1]

    def is_banned(self, peer: PeerId, now: float) -> bool:
        """Whether nothing is believed of a peer now."""
        return bool(self.banned) and self.banned.get(peer, now) > now

    def complain(self, peer: PeerId, now: float) -> bool:
        """A peer calls the table wrong: whether that is heard. If it is, the table is void and its reporters banned."""
        recent = {each: at for each, at in self._complaints.items() if now - at < _COMPLAINT_SECONDS}
        self._complaints = recent
        if peer in recent or not self.tabled or now - self._voided_at < _SETTLE_SECONDS:
            return False
        recent[peer] = self._voided_at = now
        self.banned = {each: until for each, until in self.banned.items() if until > now}
        self.banned.update(dict.fromkeys(self._reporters.values(), now + BAN_SECONDS))
        self._digests.clear()
        self._packed = (0, b"")
        self._reporters.clear()
        self.asked.clear()
        self.tabled = self.news = self._weak = 0
        self.ask_due = now
        return True
