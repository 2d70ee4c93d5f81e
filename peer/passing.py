"""Blobs that the store does not take: what is held of them in memory, and what is fetched when. No I/O.

Such a blob passes by. Its pieces are got as those of others are, from neighbours and from origins, but only as far
ahead as its readers will need them soon, and they are let go behind the readers. No neighbour is told of them, and the
supernode grants no leases over them: what is gone in a moment is of no use to others.
"""

from __future__ import annotations

from collections.abc import Iterator

from peer.announcing import Announcing
from peer.commands import Command, Hold
from peer.exchange import Exchange
from peer.sought import Sought
from peer.sourcing import Sourcing
from shoal.descriptor import BlobKey
from shoal.pieces import MIB, PieceSet, lowest, run_of

_MEMORY = 64 * MIB
"""Bytes that all readers' windows share."""
_MOST_AHEAD = 4 * MIB
"""Bytes of the window ahead of one reader: a stream that is as fast as its reader needs no more."""
_LEAD = 2
"""Pieces in front of a reader that are to be on their way at least."""
_PATIENCE = 1.0
"""Seconds for which a reader waits, where neighbours are fetching the same blob, before its peer fetches by itself."""


class Passing:
    """Keeps no books but those of the blobs; what follows is put into `out`."""

    def __init__(
        self,
        sought: dict[BlobKey, Sought],
        exchange: Exchange,
        sourcing: Sourcing,
        announcing: Announcing,
        out: list[Command],
    ) -> None:
        self._sought = sought
        self._exchange = exchange
        self._sourcing = sourcing
        self._announcing = announcing
        self._out = out
        self._moved: dict[BlobKey, None] = {}

    def begin(self, sought: Sought, filed: PieceSet, hashed: int, now: float) -> None:
        """From now on a blob passes by. Of its pieces the `filed` ones can be read yet, and `hashed` were hashed."""
        key = sought.key
        was_passing, before = sought.passes, sought.filed if sought.passes else sought.pieces.there
        sought.passes, sought.filed, sought.hashed = True, filed & before, hashed
        self._drop(sought, before & ~filed)
        if was_passing:
            self.slide(sought)
            return
        self._sourcing.closed(sought)
        self._exchange.sharing.withdraw(key)
        self._announcing.gave_up(key)
        sought.told_at, sought.is_answered = now, False
        self._announcing.opened([sought])
        self._exchange.share_again(sought, now)
        self.slide(sought)

    def hashed(self, sought: Sought, reached: int | None) -> None:
        """The hash of the whole has gone on; None: it has matched."""
        if sought.hashed != reached:
            sought.hashed = reached
            self.slide(sought)

    def slide(self, sought: Sought) -> None:
        """Readers have moved: what is behind them is let go, what is before them is to be got."""
        pieces, everything = sought.pieces, sought.layout.all
        ahead = self._ahead(sought)
        now = later = 0
        for piece, needs, _ in self._stands(sought):
            read = piece - lowest(needs)  # a window grows with what its reader has shown to take
            now |= run_of(piece, min(ahead, _LEAD + read)) & needs
            later |= -1 << piece & needs
        gone = pieces.there & ~now & ~(sought.filed & later)
        self._drop(sought, gone)
        if gone or now != sought.book.scope or later != sought.later:
            sought.book.scope, sought.later = now, later
            self._out.append(Hold(sought.key, now, later))
            self._moved[sought.key] = None
            self._sourcing.spare(sought, everything & ~later)
            self._exchange.due()

    def take_moved(self) -> list[Sought]:
        """The blobs whose readers need something else than before; they are given once."""
        moved = [self._sought[key] for key in self._moved if key in self._sought]
        self._moved.clear()
        return moved

    @staticmethod
    def _drop(sought: Sought, pieces: PieceSet) -> None:
        sought.pieces.drop(pieces)
        sought.filed &= ~pieces
        sought.own &= ~pieces

    def fetch(self, sought: Sought, now: float, *, alone: bool) -> None:
        """What readers need next and nobody brings is fetched: where this peer is `alone` at once, else where no
        neighbour can be expected to have it soon."""
        if not alone and not sought.is_answered:
            return
        others = bool(sought.contacts or sought.book.holders)
        if others:
            self._sourcing.shorten(sought)
        for piece, needs, waits_since in self._stands(sought):
            if others and not alone and now - waits_since < _PATIENCE:
                continue
            obtainable = self._exchange.obtainable(sought, now) | self._exchange.coming(sought, now)
            lacking = run_of(piece, _LEAD) & needs & sought.book.unleased & ~obtainable
            if lacking:
                self._sourcing.fetch_onwards(sought, lowest(lacking), needs & ~obtainable, now, shared=others)

    def _stands(self, sought: Sought) -> Iterator[tuple[int, PieceSet, float]]:
        """Where readers stand, and the hash of the whole where it is behind one that reads the whole: the piece, what
        is needed from there on, and since when it is waited for."""
        book, everything = sought.book, sought.layout.all
        for reader, piece in book.readers.items():
            yield piece, book.asked.get(reader, everything), sought.waits.get(reader, float("inf"))
        whole = {reader: piece for reader, piece in book.readers.items() if reader not in book.asked}
        if whole and sought.hashed is not None and sought.hashed < max(whole.values()):
            unhashed = run_of(sought.hashed, max(whole.values()) - sought.hashed)
            yield sought.hashed, unhashed, min(sought.waits.get(reader, float("inf")) for reader in whole)

    def _ahead(self, sought: Sought) -> int:
        """Pieces of a reader's window, one at least."""
        readers = sum(len(each.book.readers) for each in self._sought.values() if each.passes)
        return max(1, min(_MOST_AHEAD, _MEMORY // max(1, readers)) // sought.layout.piece_size)
