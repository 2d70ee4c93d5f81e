"""Which piece to ask whom for: what a reader waits for, then rarest first in a window ahead of the readers and beyond.

No I/O. The simulator in `bench/` runs these same classes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from peer.piecemap import PieceMap
from shoal.descriptor import BlobKey
from shoal.pieces import PieceIndex, PieceSet, iterate, lowest, pick, run_of
from supernode.protocol import PeerId

WINDOW = 32
"""Pieces ahead of a reader that come before all others but the one that it waits for, which may be the most common."""

_NEWS_DELAY, _CALM_NEWS_DELAY = 0.05, 0.15

_BLUR = 0.2
"""Up to so much is added to a neighbour's cost at random, so that not everybody asks the same one."""


@dataclass(eq=False, slots=True)
class BlobBook:
    """What the choice of a piece needs to know of one blob: its map, and which neighbour has which pieces.

    How many neighbours have a piece is kept as binary numbers across the pieces: `counts[k]` are the pieces whose
    number has bit `k` set. News of any size then costs as many operations as the numbers have digits, whatever the
    number of neighbours.
    """

    pieces: PieceMap
    checkable: PieceSet = 0
    """Pieces whose digest is told, so that what comes can be checked."""
    readers: dict[int, int] = field(default_factory=dict)
    """The piece at which each reader stands."""
    asked: dict[int, PieceSet] = field(default_factory=dict)
    """The pieces of the ranges that a reader has asked for, where it is not all of the blob that it reads."""
    scope: PieceSet = field(init=False)
    """The pieces that are to be got at all."""
    preheats: bool = False
    """Whether no client waits for the blob: all that one waits for comes before it."""
    stands_back: bool = False
    """Whether nothing of it is to come now, because a client waits for another blob."""
    holders: dict[PeerId, PieceSet] = field(default_factory=dict)
    counts: list[PieceSet] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scope = self.pieces.layout.all

    @property
    def wanted(self) -> PieceSet:
        return self.pieces.absent & self.checkable & self.scope

    @property
    def lacking(self) -> PieceSet:
        """Pieces that are to be got and are not there."""
        return self.pieces.missing & self.scope

    @property
    def unleased(self) -> PieceSet:
        """Pieces that are to be got and that no stream brings."""
        return (self.pieces.absent | self.pieces.asked) & self.scope

    def held(self, peer: PeerId, pieces: PieceSet) -> None:
        """A neighbour tells all that it has."""
        before = self.holders.get(peer, 0)
        self.holders[peer] = pieces
        self._add(pieces & ~before)
        self._subtract(before & ~pieces)

    def gained(self, peer: PeerId, pieces: PieceSet) -> None:
        """A neighbour has more pieces."""
        before = self.holders.get(peer, 0)
        self.holders[peer] = before | pieces
        self._add(pieces & ~before)

    def parted(self, peer: PeerId) -> None:
        """A neighbour has left the swarm."""
        self._subtract(self.holders.pop(peer, 0))

    @property
    def available(self) -> PieceSet:
        """Pieces that some neighbour has."""
        available = 0
        for digit in self.counts:
            available |= digit
        return available

    def news_delay(self, depth: int) -> float:
        """Seconds for which news of pieces is collected: longer where more is to be had than is asked for at a time. A
        piece from the origin is told at once. With many neighbours news is half of all messages."""
        return _CALM_NEWS_DELAY if (self.wanted & self.available).bit_count() > depth else _NEWS_DELAY

    @property
    def is_alone(self) -> bool:
        """Whether every neighbour is a seed: nobody waits for what comes here, so that it may come in order, and be
        hashed on the way instead of afterwards."""
        everything = self.pieces.layout.all
        return all(pieces == everything for pieces in self.holders.values())

    def ahead(self, count: int) -> PieceSet:
        """So many pieces that each reader needs next."""
        ahead = 0
        for reader, piece in self.readers.items():
            ahead |= run_of(piece, count) & self.asked.get(reader, -1)
        return ahead

    @property
    def ranges(self) -> PieceSet:
        """All that is asked for by readers of ranges."""
        ranges = 0
        for pieces in self.asked.values():
            ranges |= pieces
        return ranges

    def rarity(self, pieces: PieceSet) -> tuple[int, PieceSet]:
        """The lowest count of holders among `pieces` (not empty) and those that have it."""
        level = 0
        for place in range(len(self.counts) - 1, -1, -1):
            fewer = pieces & ~self.counts[place]
            if fewer:
                pieces = fewer
            else:
                level += 1 << place
        return level, pieces

    def _add(self, carry: PieceSet) -> None:
        """One more neighbour has these pieces."""
        counts = self.counts
        for place, digit in enumerate(counts):
            if not carry:
                return
            counts[place] = digit ^ carry
            carry &= digit
        if carry:
            counts.append(carry)

    def _subtract(self, borrow: PieceSet) -> None:
        """One neighbour less has these pieces."""
        counts = self.counts
        for place, digit in enumerate(counts):
            if not borrow:
                return
            counts[place] = digit ^ borrow
            borrow &= ~digit


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision: ask this neighbour for this piece."""

    peer: PeerId
    blob: BlobKey
    piece: PieceIndex


_ORDER: tuple[Callable[[BlobBook], PieceSet], ...] = (
    lambda book: book.ahead(1),
    lambda book: book.ahead(WINDOW),
    lambda book: book.ranges,
    lambda book: -1,
)
"""Which pieces of a book come first, which next."""


class Picker:
    """The books of all open blobs of a peer, in the order in which they were opened."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.books: dict[BlobKey, BlobBook] = {}

    def choose(
        self, idle: Collection[PeerId], cost: Callable[[PeerId], float], *, preheating: bool = True
    ) -> Choice | None:
        """The next request among neighbours that take one; the one of least `cost` is asked. `preheating`: whether it
        may be for what no client waits for."""
        if not idle:
            return None
        choice = self._choose(idle, cost, preheats=False)
        return self._choose(idle, cost, preheats=True) if choice is None and preheating else choice

    def _choose(self, idle: Collection[PeerId], cost: Callable[[PeerId], float], *, preheats: bool) -> Choice | None:
        best: tuple[int, BlobKey, PieceSet] | None = None
        for first in _ORDER:
            for blob, book in self.books.items():
                if book.preheats is not preheats or book.stands_back:
                    continue
                wanted = self._offered(book, book.wanted & first(book), idle)
                if wanted:
                    level, rarest = book.rarity(wanted)
                    if best is None or level < best[0]:
                        best = (level, blob, rarest)
            if best is not None:
                _, blob, rarest = best
                alone = self.books[blob].is_alone
                return self._ask(blob, lowest(rarest) if alone else pick(rarest, self._rng), idle, cost)
        return None

    def choose_again(
        self, idle: Collection[PeerId], cost: Callable[[PeerId], float], is_late: Callable[[float], bool]
    ) -> Choice | None:
        """Endgame: a piece that is asked of one neighbour already, of one more; `is_late` judges by when it was.

        Only when every piece that is missing has been asked for: before that a second copy takes the place of a first.
        """
        books = {blob: book for blob, book in self.books.items() if not book.stands_back}
        if any(book.pieces.absent & book.scope for book in books.values()):
            return None
        for blob, book in books.items():
            for piece in iterate(book.pieces.asked & book.checkable):
                askers = book.pieces.askers(piece)
                if len(askers) != 1:
                    continue
                [(before, asked_at)] = askers.items()
                if is_late(asked_at):
                    fresh = [peer for peer in idle if peer != before]
                    if any(book.holders.get(peer, 0) >> piece & 1 for peer in fresh):
                        return self._ask(blob, piece, fresh, cost)
        return None

    @staticmethod
    def _offered(book: BlobBook, wanted: PieceSet, idle: Collection[PeerId]) -> PieceSet:
        """Those of the `wanted` pieces that some of these neighbours have."""
        rest, holders = wanted, book.holders
        for peer in idle:
            if not rest:
                break
            rest &= ~holders.get(peer, 0)
        return wanted & ~rest

    def _ask(
        self, blob: BlobKey, piece: PieceIndex, idle: Collection[PeerId], cost: Callable[[PeerId], float]
    ) -> Choice:
        holders = self.books[blob].holders
        able = [peer for peer in idle if holders.get(peer, 0) >> piece & 1]
        return Choice(min(able, key=lambda peer: cost(peer) + self._rng.uniform(0, _BLUR)), blob, piece)
