"""What the machine does for readers that wait, and when. No I/O; times are in seconds of any monotonic clock."""

from __future__ import annotations

import random

from peer.announcing import Announcing
from peer.commands import Answer, Command, Tell
from peer.errors import DownloadFailed
from peer.exchange import Exchange
from peer.sought import Sought
from peer.sourcing import Sourcing
from shoal.pieces import PieceSet, to_bitfield
from supernode import protocol

_STARVING_SECONDS, _RESCUE_SECONDS, _RESCUE_SPREAD = 1.0, 2.8, 0.5
"""For which a reader has waited when the supernode is asked for a lease, and when its peer fetches by itself: not all
peers at the same moment, for what one has the others get from it."""
_HOPEFUL_SECONDS = 0.5
"""So much later where a neighbour has the piece and gives what it is asked for."""
_STARVED_AGAIN_SECONDS = 1.0
_CLAIMED_SECONDS, _DECEIVED_SECONDS = 3.0, 10.0
"""For which a reader has waited when a neighbour is taken to claim what it does not give, where that is not known of it
already; for so long then leases are asked for over all that such neighbours claim, without waiting for each piece."""
_MOVES_SECONDS = 1.5
"""A blob or a stream that brought something in this time moves."""
_ANSWER_SECONDS = 4.4
"""For which a client waits for the first byte before it is answered all the same: with the blob's last error, so that
it may ask elsewhere, or with a response that begins where bytes of the blob do come."""


class Waiting:
    """Keeps no books but those of the blobs; what follows is put into `out`."""

    def __init__(
        self,
        exchange: Exchange,
        sourcing: Sourcing,
        announcing: Announcing,
        out: list[Command],
        rng: random.Random,
    ) -> None:
        self._exchange = exchange
        self._sourcing = sourcing
        self._announcing = announcing
        self._out = out
        self._rng = rng
        self._rescue_patience = _RESCUE_SECONDS + _RESCUE_SPREAD * rng.random()

    def answer(self, sought: Sought, now: float) -> Exception | None:
        """Answer clients that have waited for their first byte for as long as clients may.

        Returns the error where that is all the blob's clients: the next one is to begin anew and not to inherit what
        hangs.
        """
        late = [reader for reader, since in sought.unanswered.items() if now - since > _ANSWER_SECONDS]
        if not late:
            return None
        begun = max(sought.opened_at, *(sought.unanswered[reader] for reader in late))
        moves = sought.moved_at > max(now - _MOVES_SECONDS, begun)
        is_verified_soon = not sought.book.lacking
        error = None if moves or is_verified_soon else sought.error() or _nothing(sought)
        if error is not None and (sought.book.readers.keys() | sought.unanswered.keys()) <= set(late):
            return error
        for reader in late:
            del sought.unanswered[reader]
            self._out.append(Answer(sought.key, reader, error))
        return None

    def hasten(self, sought: Sought, now: float, *, alone: bool) -> None:
        """Readers of ranges that wait have theirs before all else."""
        for reader in list(sought.book.asked):
            if reader in sought.waits:
                self.hasten_reader(sought, reader, now, alone=alone)

    def hasten_reader(self, sought: Sought, reader: int, now: float, *, alone: bool) -> None:
        """What the reader of a range waits for is fetched, or the supernode told."""
        if sought.passes:
            return  # each reader has its own streams already
        self._sourcing.hasten(sought, reader, now, alone=alone)
        if alone or not self._announcing.connected:
            return
        book = sought.book
        starved = book.asked[reader] & book.unleased & -1 << book.readers[reader] & ~sought.starved
        starved &= ~self._exchange.obtainable(sought, now)
        if starved >> book.readers[reader] & 1:
            sought.starved |= starved
            self._tell_starved(sought, starved)

    def look_after(self, sought: Sought, now: float) -> None:
        """Nobody is to be silent for long while a source lives: ask for leases over what readers wait for, and fetch
        it where none comes."""
        sought.starved &= sought.book.unleased
        if not sought.waits and now >= sought.deceived_until:
            return
        unobtainable = sought.book.unleased & ~self._exchange.obtainable(sought, now)
        claimed = sought.book.available | self._exchange.denied(sought, now)
        starved = unobtainable & claimed if now < sought.deceived_until else 0
        for reader, since in list(sought.waits.items()):
            starved |= self._look_after_reader(sought, sought.book.readers[reader], unobtainable, now - since, now)
        self._starve(sought, starved, now)

    def _look_after_reader(
        self, sought: Sought, piece: int, unobtainable: PieceSet, waited: float, now: float
    ) -> PieceSet:
        """A reader has waited for `piece`. Returns the piece where nobody gives it."""
        pieces = sought.pieces
        if waited < _STARVING_SECONDS or not (pieces.absent | pieces.asked | pieces.leased) >> piece & 1:
            return 0
        if self._sourcing.is_moving(sought, piece, now, _MOVES_SECONDS):
            return 0
        denied = unobtainable & self._exchange.denied(sought, now)
        if denied >> piece & 1 or (waited > _CLAIMED_SECONDS and unobtainable & sought.book.available):
            sought.deceived_until = now + _DECEIVED_SECONDS
        if waited > self._rescue_patience + (0 if unobtainable >> piece & 1 else _HOPEFUL_SECONDS):
            self._rescue_patience = _RESCUE_SECONDS + _RESCUE_SPREAD * self._rng.random()
            self._sourcing.rescue(sought, piece, now, alone=not self._announcing.connected)
        return unobtainable & 1 << piece  # the rest has its turn among all that leaves the origin

    def _starve(self, sought: Sought, pieces: PieceSet, now: float) -> None:
        """Ask the supernode for leases over pieces, now and then."""
        may_have_leases = self._announcing.connected and not sought.passes
        if may_have_leases and pieces and now - sought.starved_at > _STARVED_AGAIN_SECONDS:
            sought.starved_at, sought.starved = now, pieces
            self._tell_starved(sought, pieces)

    def _tell_starved(self, sought: Sought, pieces: PieceSet) -> None:
        self._out.append(Tell(protocol.Starved(*sought.key, to_bitfield(pieces, sought.layout.count))))


def _nothing(sought: Sought) -> DownloadFailed:
    origins = sorted({location.registry for location in sought.places})
    return DownloadFailed(f"neither {', '.join(origins)} nor a peer gave a byte of it in {_ANSWER_SECONDS:g} s")
