"""The machine's dealings with neighbours: who has what, and what is asked of whom. No I/O."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable
from dataclasses import dataclass

from peer import wire
from peer.bucket import TokenBucket
from peer.commands import Command, Dial, Land, Send
from peer.picker import Picker
from peer.requests import Requests
from peer.sharing import Library, Sharing
from peer.sought import Sought
from peer.uploading import Uploading
from peer.uploads import Upload
from shoal.descriptor import BlobKey
from shoal.messages import BlobRef, InvalidMessage, key_of, pieces_of
from shoal.pieces import PIECE_DIGEST_SIZE, PieceSet
from supernode.protocol import PeerId

_COMING_SECONDS = 6.0
"""How long a neighbour's word counts that pieces come to it."""
_AHEAD_SECONDS = 0.5
"""By which a piece is asked for before a limit has its turn: longer than between two ticks."""
_REDIAL_SECONDS, _MAX_REDIAL_SECONDS, _REDIALS = 1.0, 2.0, 8
"""Before the first attempt to reach a neighbour again, doubled each time, at most, and the number of attempts: a
link that was cut for some seconds is used again within a few."""


@dataclass(slots=True)
class _Redial:
    host: str
    port: int
    at: float
    attempts: int = 0


class Exchange:
    """The books of all neighbours. Events change them; what follows is put into `out`."""

    def __init__(
        self, library: Library, sought: dict[BlobKey, Sought], out: list[Command], slots: int, rng: random.Random
    ) -> None:
        self._sought = sought
        self._out = out
        self._picker = Picker(rng)
        self._slots = slots
        self._redials: dict[PeerId, _Redial] = {}
        self._is_due = False
        self.requests = Requests()
        self.sharing = Sharing(library, sought, out, rng)
        self.uploading = Uploading(self.sharing, out, slots, rng)
        self.streams = 0
        """Streams from origins that run: each takes one download slot."""
        self.preheat = TokenBucket()
        """What may come that no client waits for."""

    def resize(self, slots: int) -> None:
        """So many uploads at a time from now on."""
        self._slots = slots
        self.uploading.resize(slots)

    def sharers(self, sought: Sought) -> list[PeerId]:
        """The connected neighbours that have pieces of a blob or want them."""
        return [peer for peer in sought.book.holders if peer in self.sharing.told]

    def obtainable(self, sought: Sought, now: float) -> PieceSet:
        """Pieces that are on their way, or that a neighbour has which gives what it is asked for."""
        pieces, held = sought.pieces, 0
        for peer, theirs in sought.book.holders.items():
            if not self.requests.is_doubtful(peer, now):
                held |= theirs
        return (pieces.missing & held & sought.book.checkable) | pieces.landing | pieces.leased

    def denied(self, sought: Sought, now: float) -> PieceSet:
        """Pieces that neighbours have claimed which do not keep what they claim, and those of which no word is taken
        alone: what has to leave the origin once more is to do so at once."""
        denied = sought.broken | sought.disputed
        for peer, theirs in sought.book.holders.items():
            if self.requests.is_left_alone(peer, now):
                denied |= theirs
        return denied

    def coming(self, sought: Sought, now: float) -> PieceSet:
        """Pieces that neighbours are fetching by themselves."""
        return sought.coming_elsewhere(now, _COMING_SECONDS)

    # --- blobs ----------------------------------------------------------------------------------------------------

    def opened(self, sought: Sought) -> None:
        """A blob is sought from now on, and what there is of it is offered."""
        self._picker.books[sought.key] = sought.book

    def closed(self, sought: Sought) -> None:
        """A blob is not sought any more."""
        del self._picker.books[sought.key]
        self.withdraw(sought)

    def meet(self, sought: Sought, contacts: Iterable[tuple[PeerId, str, int]], now: float) -> None:
        """Neighbours for a blob, from a handout."""
        for peer, host, port in contacts:
            sought.contacts[peer] = host, port
            if peer in self.sharing.told:
                self.sharing.join_soon(peer, sought.key, now)
            else:
                self._out.append(Dial(peer, host, port))

    def gained(self, sought: Sought, piece: int, now: float, *, own: bool) -> None:
        """A piece is there, from an origin (`own`) or from a neighbour."""
        self.sharing.gained(sought, piece, now, own=own, depth=self.requests.depth)
        self.due()

    def share_again(self, sought: Sought, now: float) -> None:
        """A blob has begun anew: its neighbours hear of it again."""
        for peer in sought.contacts:
            if peer in self.sharing.told:
                self.sharing.join_soon(peer, sought.key, now)

    def cancel(self, blob: BlobKey, requests: Iterable[tuple[int, PeerId]]) -> None:
        """Requests are void: tell those who were asked."""
        for piece, peer in requests:
            self._out.append(Send((peer,), wire.Cancel(blob.digest, blob.size, piece)))

    # --- asking ---------------------------------------------------------------------------------------------------

    def due(self) -> None:
        """Something has changed by which more may be asked for."""
        self._is_due = True

    def ask(self, now: float) -> None:
        """Ask for as many pieces as may be outstanding, once for all that has happened at the same moment."""
        if not self._is_due:
            return
        self._is_due = False
        requests = self.requests
        limit = requests.depth - self.streams * max(1, requests.depth // self._slots)
        room = limit - requests.count
        if room <= 0 or not self._sought or self._landing > 2 * requests.depth:
            return
        idle = requests.takers(self.sharing.told, now)
        is_late = functools.partial(requests.is_late, now=now)
        for _ in range(room):
            choice = self._picker.choose(idle, requests.cost, preheating=self._may_preheat(now))
            if choice is None and not self.streams:
                choice = self._picker.choose_again(idle, requests.cost, is_late)
            if choice is None:
                return
            self._sought[choice.blob].pieces.ask(choice.piece, choice.peer, now)
            preheats = self._sought[choice.blob].book.preheats
            if preheats:
                self.preheat.take(self._sought[choice.blob].layout.length(choice.piece), now)
            self._out.append(Send((choice.peer,), wire.Request(*choice.blob, choice.piece, preheats)))
            if requests.load(choice.peer) >= requests.most_at_one:
                idle.remove(choice.peer)

    def _may_preheat(self, now: float) -> bool:
        """Whether the limit lets a piece come that no client waits for: it is asked for some time before its turn."""
        return self.preheat.wait(self.preheat.take(0, now), now) < _AHEAD_SECONDS

    def withdraw(self, sought: Sought) -> None:
        """What neighbours were asked for of a blob is not to come now."""
        self.cancel(sought.key, sought.pieces.void(sought.pieces.asked))
        self.due()

    @property
    def _landing(self) -> int:
        return sum(sought.pieces.landing.bit_count() for sought in self._sought.values())

    def count_sources(self) -> None:
        """Count the neighbours that requests can be spread over, and look how large these are."""
        books = self._picker.books.values()
        self.requests.piece_size = max((book.pieces.layout.piece_size for book in books), default=1)
        self.requests.sources = len({peer for book in books for peer in book.holders})

    def _unask(self, peer: PeerId, message: wire.Busy | wire.Absent) -> Sought | None:
        sought = self._sought.get(key_of(message))
        if sought is not None:
            sought.pieces.unask(message.piece, peer)
        return sought

    # --- neighbours -----------------------------------------------------------------------------------------------

    def arrived(self, peer: PeerId, now: float) -> None:
        """A new connection: say what is shared."""
        self.sharing.told[peer] = set()
        self._redials.pop(peer, None)
        self.sharing.join(peer, [key for key, sought in self._sought.items() if peer in sought.contacts])

    def gone(self, peer: PeerId, now: float) -> None:
        """A connection is over: what was asked there is asked elsewhere."""
        self.sharing.told.pop(peer, None)
        for sought in self._sought.values():
            sought.book.parted(peer)
            sought.coming.pop(peer, None)
            for piece in sought.pieces.asked_of(peer):
                sought.pieces.unask(piece, peer)
        self.requests.drop(peer, now)
        self.uploading.gone(peer)
        self.unreachable(peer, now)
        self.count_sources()
        self.due()

    def unreachable(self, peer: PeerId, now: float) -> None:
        """A peer could not be reached, or is gone: try again some times, as long as it is wanted."""
        contact = next((each.contacts[peer] for each in self._sought.values() if peer in each.contacts), None)
        redial = self._redials.get(peer)
        if contact is None or (redial is not None and redial.attempts >= _REDIALS):
            self._redials.pop(peer, None)
            for sought in self._sought.values():
                sought.contacts.pop(peer, None)
            return
        if redial is None:
            redial = self._redials[peer] = _Redial(*contact, now)
        redial.at = now + min(_REDIAL_SECONDS * 2**redial.attempts, _MAX_REDIAL_SECONDS)
        redial.attempts += 1

    def accepts(self, peer: PeerId, piece: wire.Piece, now: float) -> bool:
        """Whether a piece that begins is wanted; raises `InvalidMessage` where its length is wrong."""
        sought = self._sought.get(key_of(piece))
        if sought is None or peer not in (askers := sought.pieces.askers(piece.piece)):
            return False
        if piece.length != sought.layout.length(piece.piece):
            self.requests.broke_claim(peer, now, knowingly=True)
            raise InvalidMessage(f"piece {piece.piece} of {piece.length} bytes")
        self.requests.began(peer, askers[peer], now)
        return True

    def piece(self, peer: PeerId, message: wire.Piece, content: bytearray, now: float) -> float | None:
        """All bytes of a piece are here; returns the seconds that it took, or None where it is not wanted any more."""
        sought = self._sought.get(key_of(message))
        asked_at = sought.pieces.askers(message.piece).get(peer) if sought is not None else None
        if sought is None or asked_at is None:
            return None
        others = sought.pieces.land_asked(message.piece, peer)
        self.requests.done(peer, asked_at, message.length, now)
        self.cancel(sought.key, [(message.piece, other) for other in others])
        sought.moved_at = now
        self._out.append(Land(sought.key, message.piece, content, sought.table[message.piece], peer))
        self.due()
        return now - asked_at

    def said(self, peer: PeerId, message: wire.Kinds, now: float) -> None:
        """A message of a neighbour; raises `InvalidMessage`."""
        match message:
            case wire.Have():
                self._have(peer, message)
            case wire.Request():
                self.uploading.requested(Upload(peer, key_of(message), message.piece, message.preheats))
            case wire.Busy():
                self._unask(peer, message)
                self.requests.busy(peer, now)
                self.due()
            case wire.Ready():
                self.requests.ready(peer)
                self.due()
            case wire.Absent():
                sought = self._unask(peer, message)
                if sought is not None:
                    self._absent(sought, peer, message.piece, now)
                self.due()
            case wire.Cancel():
                self.uploading.cancelled(Upload(peer, key_of(message), message.piece))
            case wire.Coming():
                sought = self._sought.get(key_of(message))
                if sought is not None and not sought.is_solitary:
                    sought.coming[peer] = pieces_of(message.pieces, sought.layout), now
            case wire.Join():
                self._joined(peer, message)
            case wire.Part():
                for blob in message.blobs:
                    self._parted(peer, key_of(blob))
            case _:
                raise InvalidMessage(f"an unexpected {type(message).__name__}")

    def _absent(self, sought: Sought, peer: PeerId, piece: int, now: float) -> None:
        claimed = sought.book.holders.get(peer, 0)
        if claimed >> piece & 1:
            sought.book.held(peer, claimed & ~(1 << piece))
            sought.broken |= 1 << piece
            self.requests.broke_claim(peer, now)

    def suspect(self, sought: Sought, piece: int, peer: PeerId, now: float) -> None:
        """A neighbour's piece does not match the table: it is not asked for this piece again.

        Who is right is not known before the whole blob is verified.
        """
        sought.suspects.setdefault(peer, {})[piece] = sought.table.get(piece, b"")
        sought.book.held(peer, sought.book.holders.get(peer, 0) & ~sought.suspected(peer))
        sought.broken |= 1 << piece
        self.requests.broke_claim(peer, now)
        self.due()

    def dispute(self, sought: Sought, pieces: PieceSet) -> None:
        """What was told of these pieces may be wrong: who sent what did not match it is not to blame."""
        for peer in sought.dispute(pieces):
            self.requests.absolve(peer)

    # --- time -----------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Let go of requests that got stuck, and reach for neighbours that were lost."""
        for peer in self.requests.stuck(now):
            for sought in self._sought.values():
                pieces = sought.pieces.asked_of(peer)
                for piece in pieces:
                    sought.pieces.unask(piece, peer)
                self.cancel(sought.key, [(piece, peer) for piece in pieces])
            self.requests.leave_alone(peer, now)
        for peer, redial in list(self._redials.items()):
            if now >= redial.at:
                redial.at = float("inf")
                self._out.append(Dial(peer, redial.host, redial.port))
        self.count_sources()
        self.due()

    # --- who has what ---------------------------------------------------------------------------------------------

    def _joined(self, peer: PeerId, message: wire.Join) -> None:
        shared, unknown = [], []
        for each in message.blobs:
            blob = key_of(each)
            offer = self.sharing.offer(blob)
            if offer is None:
                unknown.append(BlobRef(*blob))
                continue
            layout, _ = offer
            have = pieces_of(each.have, layout) if each.have else layout.all
            shared.append(blob)
            sought = self._sought.get(blob)
            if sought is not None:
                sought.book.held(peer, have & ~sought.suspected(peer))
                sought.most_sharers = max(sought.most_sharers, len(sought.book.holders))
        self.sharing.join(peer, shared)
        if unknown:
            self._out.append(Send((peer,), wire.Part(unknown)))
        self.count_sources()
        self.due()

    def _parted(self, peer: PeerId, blob: BlobKey) -> None:
        self.sharing.told[peer].discard(blob)
        sought = self._sought.get(blob)
        if sought is not None:
            sought.book.parted(peer)
            sought.coming.pop(peer, None)
            for piece in sought.pieces.asked_of(peer):
                sought.pieces.unask(piece, peer)
            self.due()

    def _have(self, peer: PeerId, message: wire.Have) -> None:
        sought = self._sought.get(key_of(message))
        if sought is None:
            return
        pieces, layout = 0, sought.layout
        for index in message.pieces:
            if not layout.is_valid(index):
                raise InvalidMessage(f"piece {index} of a blob of {layout.count} pieces")
            pieces |= 1 << index
        if message.digests:
            if len(message.digests) != len(message.pieces) * PIECE_DIGEST_SIZE:
                raise InvalidMessage("not one digest for each piece")
            sought.learn(message.pieces, message.digests, hearsay=True)
        if peer in sought.suspects:
            pieces &= ~sought.suspected(peer)
        sought.book.gained(peer, pieces)
        if pieces & sought.book.wanted:
            self.due()
