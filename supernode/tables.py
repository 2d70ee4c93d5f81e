"""The digests of one blob's pieces: who said what, whose word stands, and who is contradicted by two others."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass, field

from shoal.pieces import PIECE_DIGEST_SIZE, PieceSet, iterate, leading_run, lowest, set_of
from supernode.protocol import PeerId

COMPLAINT_SECONDS = 600.0
"""How long a complaint waits for a second one, and how long one that was heard keeps its peer from another."""
_SETTLE_SECONDS = 1.0
"""Complaints that arrive so soon after a table was voided are about the voided one."""
_MAX_CONTESTED = 64
"""Pieces of one blob of which different digests are kept at a time: to find a liar takes one of them."""
_ENOUGH = 2
"""Members that say the same of a piece, or that a blob is wrong, are believed against one that says otherwise."""


@dataclass(slots=True)
class Contest:
    """A piece of which members say different things, and what each said first, in this order."""

    words: dict[PeerId, bytes]
    asked: set[PeerId] = field(default_factory=set)
    """Who was asked to settle it."""


class _Words:
    """Digests of pieces with their reporters, in about as many bytes as were told."""

    __slots__ = ("_digests", "pieces", "reporters")

    def __init__(self) -> None:
        self.pieces: PieceSet = 0
        self.reporters: dict[PeerId, PieceSet] = {}
        self._digests = bytearray()

    def put(self, index: int, digest: bytes) -> None:
        """Write down a digest. Its piece and its reporter are entered with `credit`, for many pieces at once."""
        start = index * PIECE_DIGEST_SIZE
        if len(self._digests) < start:
            self._digests.extend(bytes(start - len(self._digests)))
        self._digests[start : start + PIECE_DIGEST_SIZE] = digest

    def credit(self, peer: PeerId, pieces: PieceSet) -> None:
        """These are a peer's words now, and nobody else's."""
        if pieces & self.pieces:
            self.drop(pieces)
        self.pieces |= pieces
        self.reporters[peer] = self.reporters.get(peer, 0) | pieces

    def drop(self, pieces: PieceSet) -> None:
        """Nothing is said of these pieces."""
        self.pieces &= ~pieces
        left = {peer: theirs & ~pieces for peer, theirs in self.reporters.items()}
        self.reporters = {peer: theirs for peer, theirs in left.items() if theirs}

    @property
    def size(self) -> int:
        """Bytes of digests."""
        return len(self._digests)

    def digest(self, index: int) -> bytes:
        return bytes(self._digests[index * PIECE_DIGEST_SIZE : (index + 1) * PIECE_DIGEST_SIZE])

    def reporter(self, index: int) -> PeerId:
        return next(peer for peer, pieces in self.reporters.items() if pieces >> index & 1)

    def packed(self, pieces: PieceSet) -> bytes:
        """The digests of `pieces`, ascending."""
        if not pieces:
            return b""
        first, count = lowest(pieces), pieces.bit_count()
        if leading_run(pieces, first) == count:
            return bytes(self._digests[first * PIECE_DIGEST_SIZE : (first + count) * PIECE_DIGEST_SIZE])
        return b"".join([self.digest(index) for index in iterate(pieces)])


class PieceTable:
    """Piece digests as they were reported, by whom, and what the members still have to hear of them.

    The first word on a piece stands, and a firm one, of a leaseholder or of a holder of the whole blob, replaces one
    that was not. Where two firm words differ, a third decides: who is contradicted by two others is a liar.
    """

    def __init__(self) -> None:
        self.news: PieceSet = 0
        """Pieces whose digests the members have not been told yet."""
        self.news_due = 0.0
        """When they may be told next, in seconds of the tracker's clock."""
        self.ask_due = 0.0
        """When a member may be asked for digests next."""
        self.asked: dict[PeerId, float] = {}
        """When members were asked for digests that they have not given yet."""
        self.contested: dict[int, Contest] = {}
        self.confirmed: PieceSet = 0
        """Pieces of which two members have said the same, firmly."""
        self._standing = _Words()
        self._weak: PieceSet = 0
        """Pieces whose digest was not reported firmly."""
        self._is_distrusted = False
        self._past = _Words()
        """What was said before the table was voided. It is told to nobody, and weighs against what is said since."""
        self._packed: tuple[PieceSet, bytes] = (0, b"")
        """What was asked for last, which many who come at one time are told."""
        self._complaints: dict[PeerId, float] = {}
        self._heard: dict[PeerId, float] = {}
        """Who had a part in voiding the table, and when."""
        self._voided_at = float("-inf")

    @property
    def tabled(self) -> PieceSet:
        """Pieces whose digest is here."""
        return self._standing.pieces

    @property
    def size(self) -> int:
        """Bytes of digests that are kept."""
        return self._standing.size + self._past.size

    @property
    def is_distrusted(self) -> bool:
        """Whether this table was voided and nobody knows yet who lied."""
        return self._is_distrusted

    def past_of(self, peer: PeerId) -> PieceSet:
        """The pieces of a voided table that a peer had reported: others are to say what they are."""
        return self._past.reporters.get(peer, 0)

    def has_words_of(self, peer: PeerId) -> bool:
        """Whether anything here is a peer's word."""
        return (
            peer in self._standing.reporters
            or peer in self._past.reporters
            or any(peer in contest.words for contest in self.contested.values())
        )

    def report(self, peer: PeerId, pieces: PieceSet, among: Sequence[int], digests: bytes, firm: bool) -> list[PeerId]:
        """Take the digests of `pieces`; `digests` holds those of all pieces of `among`, in its order.

        Returns those whom two members contradict now.
        """
        if self.is_distrusted:
            pieces = pieces & ~self.past_of(peer) if firm else 0
        taken = pieces & ~(self.tabled & ~self._weak if firm else self.tabled)
        weighed = pieces & (self.tabled & ~self._weak | self._past.pieces) if firm else 0
        if not taken | weighed:
            return []
        told = self._news_among(taken, among, digests)
        if taken:
            self._standing.credit(peer, taken)
            self._weak = self._weak & ~taken if firm else self._weak | taken
        self._tell(told)
        return self._second_words(peer, taken, weighed, among, digests) if weighed else []

    def _news_among(self, taken: PieceSet, among: Sequence[int], digests: bytes) -> PieceSet:
        """Write down the digests of `taken`; returns the pieces whose digest is another one now."""
        indices, known = set(iterate(taken)), set(iterate(taken & self.tabled))
        news: list[int] = []
        for place, index in enumerate(among):
            if index not in indices:
                continue
            digest = digests[place * PIECE_DIGEST_SIZE : (place + 1) * PIECE_DIGEST_SIZE]
            if index not in known or self._standing.digest(index) != digest:
                news.append(index)
                self._standing.put(index, digest)
        return set_of(news)

    def _second_words(
        self, peer: PeerId, taken: PieceSet, weighed: PieceSet, among: Sequence[int], digests: bytes
    ) -> list[PeerId]:
        """A peer's firm words where there are others, standing or, where its own stand now, past ones."""
        indices, own = set(iterate(weighed)), set(iterate(taken))
        own_before = self._standing.reporters.get(peer, 0) & ~taken
        agreed: list[int] = []
        liars: dict[PeerId, None] = {}
        for place, index in enumerate(among):
            if index not in indices:
                continue
            digest = digests[place * PIECE_DIGEST_SIZE : (place + 1) * PIECE_DIGEST_SIZE]
            words = self._past if index in own else self._standing
            if index in self.contested:
                liars.update(dict.fromkeys(self._weigh(index, peer, digest)))
            elif words.digest(index) == digest:
                agreed.append(index)
            elif self.confirmed >> index & 1:
                return [peer]
            elif len(self.contested) < _MAX_CONTESTED and (reporter := words.reporter(index)) != peer:
                self.contested[index] = Contest({reporter: words.digest(index), peer: digest})
        self.confirmed |= set_of(agreed) & ~own_before
        return list(liars)

    def digests_of(self, pieces: PieceSet) -> bytes:
        """The digests of `pieces`, all of which are tabled, in ascending order."""
        if self._packed[0] != pieces:
            self._packed = pieces, self._standing.packed(pieces)
        return self._packed[1]

    def complain(self, peer: PeerId, now: float) -> bool:
        """A peer calls the table wrong. Returns whether a second one has said so before: then it is to be voided."""
        self._complaints = {each: at for each, at in self._complaints.items() if now - at < COMPLAINT_SECONDS}
        self._heard = {each: at for each, at in self._heard.items() if now - at < COMPLAINT_SECONDS}
        if peer in self._heard or not self.tabled or now - self._voided_at < _SETTLE_SECONDS:
            return False
        self._complaints[peer] = now
        return len(self._complaints) >= _ENOUGH

    def void(self, now: float) -> PieceSet:
        """Two members call the table wrong: returns the pieces of which nothing is told any more.

        What two have said of a piece stays. What one has said weighs against what others say of it from now on.
        """
        self._heard.update(self._complaints)
        self._complaints.clear()
        self._voided_at = self.ask_due = now
        gone = self.tabled & ~self.confirmed
        if gone:
            self._is_distrusted = True
            self._past, kept = self._standing, _Words()
            for peer, pieces in self._past.reporters.items():
                for index in iterate(pieces & self.confirmed):
                    kept.put(index, self._past.digest(index))
                if pieces & self.confirmed:
                    kept.credit(peer, pieces & self.confirmed)
            self._past.drop(self.confirmed | self._weak)
            self._standing = kept
        self._packed = (0, b"")
        self.asked.clear()
        self.news &= ~gone
        self._weak &= ~gone
        return gone

    def withdraw(self, liar: PeerId) -> PieceSet:
        """Nothing is believed of this peer. Returns the pieces whose digest was its word alone.

        As the liar is found, what others said before a voided table is believed again.
        """
        gone = self._standing.reporters.get(liar, 0) & ~self.confirmed
        self._standing.drop(gone)
        self._past.drop(self._past.reporters.get(liar, 0))
        for index, contest in list(self.contested.items()):
            contest.words.pop(liar, None)
            if len(set(contest.words.values())) < _ENOUGH:
                del self.contested[index]
            if contest.words and not self.tabled >> index & 1:
                peer, digest = next(iter(contest.words.items()))
                self._stand(index, peer, digest)
                self._tell(1 << index)
        restored = self._past.pieces & ~self.tabled
        for index in iterate(restored):
            self._standing.put(index, self._past.digest(index))
        for peer, pieces in self._past.reporters.items():
            if pieces & restored:
                self._standing.credit(peer, pieces & restored)
        self._past, self._is_distrusted = _Words(), False
        self._complaints.clear()
        self.asked.pop(liar, None)
        self._weak &= self.tabled
        self._tell(restored)
        self.news &= self.tabled
        return gone

    def forget(self, peer: PeerId) -> None:
        """A peer has left the swarm: what it said stays."""
        self.asked.pop(peer, None)

    def _weigh(self, index: int, peer: PeerId, digest: bytes) -> Sequence[PeerId]:
        """A firm word on a piece of which others say different things. Returns who is contradicted by two."""
        contest = self.contested[index]
        if peer in contest.words:
            return ()
        contest.words[peer] = digest
        (agreed, count), *_ = collections.Counter(contest.words.values()).most_common(1)
        if count < _ENOUGH:
            return ()
        del self.contested[index]
        if self._standing.digest(index) != agreed:
            self._tell(1 << index)
        self._stand(index, next(each for each, said in contest.words.items() if said == agreed), agreed)
        self.confirmed |= 1 << index
        return [each for each, said in contest.words.items() if said != agreed]

    def _stand(self, index: int, peer: PeerId, digest: bytes) -> None:
        self._standing.put(index, digest)
        self._standing.credit(peer, 1 << index)
        self._weak &= ~(1 << index)
        self._packed = (0, b"")

    def _tell(self, news: PieceSet) -> None:
        if news:
            self.news |= news
            self._packed = (0, b"")
