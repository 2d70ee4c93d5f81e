"""The one map of a blob's pieces: each is in exactly one state, and changes it by the transitions below alone. No I/O.

absent ---- ask -----> asked          of one neighbour, late ones of two (`ask` again)
asked ----- unask ---> absent         when the last one that was asked is given up
absent, asked - lease -> leased       one stream from an origin fetches it
leased ---- unlease -> absent
asked, leased - land -> landing       all bytes are here; they are checked and written
landing --- settle --> there
landing --- reject --> absent
there ----- drop ----> absent         of a blob that is not kept: nobody here needs it any more
any ------- void ----> absent         a landing piece goes there when it has been written
"""

from __future__ import annotations

from typing import NewType, Protocol

from shoal.pieces import PieceLayout, PieceSet, iterate
from supernode.protocol import PeerId

StreamId = NewType("StreamId", int)
"""A stream from an origin, as its peer counts them."""


class IllegalTransition(Exception):
    """A fault of ours: a piece is not in the state that this change begins from."""


class Load(Protocol):
    """The count of what is outstanding at each neighbour, kept in the same transitions (`peer.requests.Requests`)."""

    def sent(self, peer: PeerId, now: float) -> None: ...

    def over(self, peer: PeerId) -> None: ...


class PieceMap:
    """The pieces of one blob. `asked`, `leased`, `landing` and `there` are read freely and changed here alone."""

    def __init__(self, layout: PieceLayout, load: Load, there: PieceSet = 0) -> None:
        self.layout = layout
        self.absent: PieceSet = layout.all & ~there
        self.asked: PieceSet = 0
        self.leased: PieceSet = 0
        self.landing: PieceSet = 0
        self.there: PieceSet = there
        self._load = load
        self._askers: dict[int, dict[PeerId, float]] = {}
        self._streams: dict[StreamId, PieceSet] = {}
        self._doomed: PieceSet = 0
        """Landing pieces that were voided: whatever becomes of them, they are absent afterwards."""

    @property
    def missing(self) -> PieceSet:
        """All that is not there."""
        return self.layout.all & ~self.there

    def askers(self, piece: int) -> dict[PeerId, float]:
        """The neighbours that a piece is asked of, with the seconds of the clock at which it was."""
        return self._askers.get(piece, {})

    def leased_to(self, stream: StreamId) -> PieceSet:
        """What a stream still has to bring."""
        return self._streams.get(stream, 0)

    def asked_of(self, peer: PeerId) -> list[int]:
        """The pieces that are asked of a neighbour."""
        return [piece for piece, askers in self._askers.items() if peer in askers]

    # --- transitions ----------------------------------------------------------------------------------------------

    def ask(self, piece: int, peer: PeerId, now: float) -> None:
        """A request goes to a neighbour that was not asked for this piece."""
        bit = 1 << piece
        if not (self.absent | self.asked) & bit or peer in self._askers.get(piece, ()):
            raise IllegalTransition(f"piece {piece} cannot be asked of {peer}")
        self.absent &= ~bit
        self.asked |= bit
        self._askers.setdefault(piece, {})[peer] = now
        self._load.sent(peer, now)

    def unask(self, piece: int, peer: PeerId) -> bool:
        """A request has come to nothing; False where there was none."""
        askers = self._askers.get(piece)
        if askers is None or askers.pop(peer, None) is None:
            return False
        self._load.over(peer)
        if not askers:
            del self._askers[piece]
            self.asked &= ~(1 << piece)
            self.absent |= 1 << piece
        return True

    def lease(self, stream: StreamId, pieces: PieceSet) -> list[tuple[int, PeerId]]:
        """A stream is to bring these pieces; returns the requests for them, which are void now."""
        if pieces & ~(self.absent | self.asked) or not pieces:
            raise IllegalTransition("only pieces that nothing brings yet can be leased")
        void = self._requests(pieces & self.asked)
        for piece, peer in void:
            self.unask(piece, peer)
        self.absent &= ~pieces
        self.leased |= pieces
        self._streams[stream] = self._streams.get(stream, 0) | pieces
        return void

    def unlease(self, stream: StreamId, pieces: PieceSet) -> PieceSet:
        """A stream is not to bring these pieces any more; returns those that it was to bring."""
        given_up = self._take(stream, pieces)
        self.absent |= given_up
        return given_up

    def land_asked(self, piece: int, peer: PeerId) -> list[PeerId]:
        """A neighbour's piece is here; returns the others that it was asked of too, which are to be told."""
        askers = self._askers.pop(piece, {})
        if peer not in askers:
            raise IllegalTransition(f"piece {piece} was not asked of {peer}")
        for each in askers:
            self._load.over(each)
        self.asked &= ~(1 << piece)
        self.landing |= 1 << piece
        return [other for other in askers if other != peer]

    def land_leased(self, piece: int, stream: StreamId) -> None:
        """A stream's piece is here."""
        if not self._take(stream, 1 << piece):
            raise IllegalTransition(f"piece {piece} is not leased to stream {stream}")
        self.landing |= 1 << piece

    def settle(self, piece: int) -> bool:
        """A landing piece is right and written; False where it was voided meanwhile, so that it is absent again."""
        return self._leave_landing(piece, right=True)

    def reject(self, piece: int) -> None:
        """A landing piece is wrong, or could not be written."""
        self._leave_landing(piece, right=False)

    def drop(self, pieces: PieceSet) -> None:
        """These pieces were right, and are let go."""
        if pieces & ~self.there:
            raise IllegalTransition("only pieces that are there can be dropped")
        self.there &= ~pieces
        self.absent |= pieces

    def void(self, pieces: PieceSet) -> list[tuple[int, PeerId]]:
        """These pieces are not to be trusted, whatever their state; returns the requests for them, void now."""
        requests = self._requests(pieces & self.asked)
        for piece, peer in requests:
            self.unask(piece, peer)
        for stream in list(self._streams):
            self.unlease(stream, pieces)
        self._doomed |= pieces & self.landing
        self.absent |= pieces & self.there
        self.there &= ~pieces
        return requests

    def _requests(self, asked: PieceSet) -> list[tuple[int, PeerId]]:
        return [(piece, peer) for piece in iterate(asked) for peer in self._askers[piece]]

    def _leave_landing(self, piece: int, *, right: bool) -> bool:
        bit = 1 << piece
        if not self.landing & bit:
            raise IllegalTransition(f"piece {piece} is not landing")
        right = right and not self._doomed & bit
        self.landing &= ~bit
        self._doomed &= ~bit
        if right:
            self.there |= bit
        else:
            self.absent |= bit
        return right

    def _take(self, stream: StreamId, pieces: PieceSet) -> PieceSet:
        taken = self._streams.get(stream, 0) & pieces
        if taken:
            self.leased &= ~taken
            rest = self._streams[stream] & ~taken
            if rest:
                self._streams[stream] = rest
            else:
                del self._streams[stream]
        return taken
