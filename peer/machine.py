"""A peer's decisions as one state machine: events go in, commands come out (`peer.commands`). No I/O, no clock.

Call an event's method as things happen, `wake` and `tick` when it is time, and `take` for what is to be done: it is
given after everything is decided. Events that come of doing it are events like all others. Its picture and its table
are in `docs/architecture.md`; the simulator in `bench/` runs this same class.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from peer import wire
from peer.announcing import Announcing
from peer.asked import Asked
from peer.commands import Command, Discard, Fail, FailReaders, HangUp, Park, Tell, TellTable
from peer.errors import DigestMismatch, DownloadFailed
from peer.exchange import Exchange
from peer.passing import Passing
from peer.picker import BlobBook
from peer.piecemap import PieceMap, StreamId
from peer.sharing import Library
from peer.sought import Place, Sought
from peer.sourcing import Sourcing
from peer.uploads import UPLOAD_SLOTS, Upload
from peer.waiting import Waiting
from shoal.descriptor import BlobKey
from shoal.messages import InvalidMessage, key_of, pieces_of
from shoal.pieces import PIECE_DIGEST_SIZE, PieceLayout, PieceSet, iterate, to_bitfield
from shoal.reference import Location
from supernode import protocol
from supernode.protocol import PeerId, parse_peer_id
from supernode.report import Watch

_SHUN_SECONDS = 600.0
_GIVE_UP_SECONDS = 20.0
"""For which a reader that was given something waits at most while nothing of the blob comes from anywhere."""
_PARK_SECONDS = 10.0
"""After the last reader of a blob of which no more is to be got than there is, it is put away."""
_SEEK_SECONDS = 2.0
_COMING_AGAIN_SECONDS = 2.0
"""Between two times that neighbours are told what comes to this peer without a lease."""
_FEW_NEIGHBOURS = 3
_PULL_SECONDS = 2.0
"""A blob that a client waits for and of which nothing has come for so long keeps nothing back that is preheated."""
_NOT_OURS = (
    protocol.Welcome
    | protocol.Refused
    | protocol.Resolved
    | protocol.Confirm
    | protocol.Limits
    | protocol.Quiet
    | protocol.Refresh
    | protocol.Visit
    | protocol.Probed
    | Watch
    | protocol.Preheat
    | protocol.CancelPreheat
    | protocol.KeepPins
    | protocol.ListTags
)
"""Messages of the supernode that the control client answers itself."""


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """What the configuration says."""

    slots: int = UPLOAD_SLOTS
    has_supernode: bool = True
    origin_wait: float = 2.0
    """Seconds for which the supernode is waited for before the origin is asked without it."""


class Machine:
    """All that one peer decides about pieces. Times are in seconds of any monotonic clock."""

    def __init__(self, settings: MachineSettings, library: Library, rng: random.Random, now: float) -> None:
        self._settings = settings
        self._library = library
        self._rng = rng
        self._out: list[Command] = []
        self._lost_patience = settings.origin_wait
        self._lost_at = self._told_coming_at = now
        self.sought: dict[BlobKey, Sought] = {}
        self.exchange = Exchange(library, self.sought, self._out, settings.slots, rng)
        self.sourcing = Sourcing(self.exchange, self._out, rng)
        self.announcing = Announcing(self.sought, self.sourcing, self._out)
        self.passing = Passing(self.sought, self.exchange, self.sourcing, self.announcing, self._out)
        self.waiting = Waiting(self.exchange, self.sourcing, self.announcing, self._out, rng)

    def reconfigure(self, slots: int, origin_wait: float) -> None:
        """From now on these hold, as `MachineSettings` has them."""
        self._settings = dataclasses.replace(self._settings, slots=slots, origin_wait=origin_wait)
        self.exchange.resize(slots)

    def take(self, now: float) -> list[Command]:
        """What is to be done, in order; it is given once."""
        for sought in self.passing.take_moved():
            self._fetch_unless_helped(sought, now)
        self.exchange.ask(now)
        out = self._out[:]
        self._out.clear()
        return out

    @property
    def wake_at(self) -> float:
        """When `wake` is to be called, in seconds of the clock; infinity: not at all."""
        return self.exchange.sharing.wake_at

    @property
    def has_commands(self) -> bool:
        """Whether `take` would give something that is decided already."""
        return bool(self._out)

    @property
    def connected(self) -> bool:
        """Whether the supernode is there."""
        return self.announcing.connected

    # --- blobs ----------------------------------------------------------------------------------------------------

    def open(
        self,
        blobs: Iterable[tuple[BlobKey, PieceSet, Mapping[int, bytes]]],
        location: Location,
        now: float,
        asked: Asked | None = None,
        passing: Collection[BlobKey] = (),
        *,
        preheats: bool = False,
    ) -> None:
        """Get these blobs, the first one first. Of each what is there already, and the digests known of that.

        `asked`: ranges of the first one, where it is not all of it that somebody wants. Such a reader `asks` next.
        `passing`: those of them that the store does not take. `preheats`: no client waits for them.
        """
        opened: list[Sought] = []
        stands_back = preheats and self.is_pulling(now)
        for key, have, table in blobs:
            layout = PieceLayout.of(key.size)
            pieces = PieceMap(layout, self.exchange.requests, have)
            sought = Sought(key, pieces, BlobBook(pieces), moved_at=now, told_at=now, opened_at=now)
            sought.table.update(table)
            sought.places[location] = Place(location)
            sought.idle_since = now
            sought.book.preheats, sought.book.stands_back = preheats, stands_back
            if asked is not None and not opened:
                sought.book.scope, sought.is_whole = 0, False
                sought.widen(asked)
            if key in passing:
                sought.passes, sought.filed, sought.book.scope = True, have, 0
            self.sought[key] = sought
            self.exchange.opened(sought)
            opened.append(sought)
        self._give_way(now)
        self.announcing.opened(opened)
        for sought in opened[1 if asked is not None else 0 :]:
            self._fetch_unless_helped(sought, now)

    def asks(self, key: BlobKey, reader: int, asked: Asked | None, now: float, since: float | None = None) -> None:
        """A reader comes that wants these ranges, or all, and whose client waits since then; `demand` follows."""
        sought = self.sought[key]
        scope = sought.book.scope
        sought.widen(asked)
        sought.unanswered[reader] = now if since is None else since
        if asked is not None:
            sought.book.asked[reader] = asked.pieces(sought.layout)
            sought.book.readers[reader] = sought.layout.at(asked.ranges[0].start)
            sought.waits[reader] = now
        if sought.passes:
            self.passing.slide(sought)
        elif sought.book.scope != scope:
            self.announcing.opened([sought])

    def demand(self, key: BlobKey, location: Location, now: float) -> None:
        """A client asks for a blob that is being got, and names a place."""
        sought = self.sought[key]
        sought.demanded = True
        self.pull([key], now)
        place = sought.places.get(location)
        if place is None or place.may_have_changed(now):
            sought.places[location] = Place(location)
            self.announcing.opened([sought])
        self._hasten(sought, now)
        self._fetch_unless_helped(sought, now)

    def pull(self, keys: Iterable[BlobKey], now: float) -> None:
        """A client's image has these blobs: those of them that are preheated are now what it waits for."""
        promoted = [self.sought[key] for key in keys if key in self.sought and self.sought[key].book.preheats]
        for sought in promoted:
            sought.book.preheats = sought.book.stands_back = False
            sought.moved_at = now
        if promoted:
            self.announcing.opened(promoted)
        self._give_way(now)

    def preheat(self, key: BlobKey) -> None:
        """All of a blob is to come that is being got already."""
        sought = self.sought[key]
        if not sought.passes and sought.book.scope != sought.layout.all:
            sought.widen(None)
            self.announcing.opened([sought])

    def cool(self, key: BlobKey, error: Exception) -> None:
        """Nobody preheats a blob any more: it is given up, unless a client waits for it."""
        sought = self.sought.get(key)
        if sought is not None and sought.book.preheats:
            self.fail(key, error)

    def _give_way(self, now: float) -> None:
        """What is preheated stands back as long as a client's blob comes, and goes on when none does."""
        preheated = [sought for sought in self.sought.values() if sought.book.preheats]
        if not preheated:
            return
        pulling = self.is_pulling(now)
        turned = [sought for sought in preheated if sought.book.stands_back is not pulling]
        for sought in turned:
            sought.book.stands_back = pulling
            if pulling:
                self.exchange.withdraw(sought)
                self.sourcing.stand_back(sought)
        if turned:
            self.announcing.opened(turned)
            self.exchange.due()

    def is_pulling(self, now: float) -> bool:
        """Whether more than a piece is coming that a client waits for."""
        return any(
            not each.book.preheats
            and each.layout.count > 1
            and each.book.lacking
            and now - each.moved_at < _PULL_SECONDS
            for each in self.sought.values()
        )

    def reading(self, key: BlobKey, reader: int, piece: int, waits_since: float | None) -> None:
        """A reader stands at `piece`, and waits for it since then or has been given it."""
        sought = self.sought.get(key)
        if sought is None:
            return
        before = sought.book.readers.get(reader)
        if before is None:
            self.exchange.due()
        sought.book.readers[reader] = piece
        if waits_since is None:
            sought.waits.pop(reader, None)
            sought.unanswered.pop(reader, None)
        else:
            sought.waits[reader] = waits_since
            if reader in sought.book.asked:
                self.waiting.hasten_reader(sought, reader, waits_since, alone=self._is_alone(sought, waits_since))
        if sought.passes and piece != before:
            self.passing.slide(sought)

    def left(self, key: BlobKey, reader: int, now: float) -> None:
        """A reader has gone, or has all that it wanted. What it asked for comes all the same."""
        sought = self.sought.get(key)
        if sought is not None:
            for books in (sought.book.readers, sought.book.asked, sought.waits, sought.unanswered):
                books.pop(reader, None)
            sought.idle_since = now
            if sought.passes:
                self.passing.slide(sought)
                self._park_unless_used(sought)

    def pass_by(self, key: BlobKey, filed: PieceSet, hashed: int, now: float) -> None:
        """The store does not take a blob, or cannot read any more what it took of it: it goes on to those who read it.

        Of its pieces the `filed` ones can be read where they were written, and the first `hashed` ones were hashed.
        """
        sought = self.sought.get(key)
        if sought is not None:
            self.passing.begin(sought, filed, hashed, now)
            self._park_unless_used(sought)

    def hashed(self, key: BlobKey, reached: int) -> None:
        """Of a blob that passes by, `reached` pieces are hashed."""
        sought = self.sought.get(key)
        if sought is not None and sought.passes:
            self.passing.hashed(sought, reached)

    def passed(self, key: BlobKey) -> None:
        """The whole of a blob that passes by is right. Its readers go on to their ends."""
        sought = self.sought.get(key)
        if sought is not None:
            self._hang_up_on_liars(sought)
            self.passing.hashed(sought, None)
            self._park_unless_used(sought)

    def verified(self, key: BlobKey, now: float) -> None:
        """The whole blob is right and stored: it is a seed's now."""
        sought = self._close(key)
        if sought is None:
            return
        self._hang_up_on_liars(sought)
        self.announcing.completed(key)

    def _hang_up_on_liars(self, sought: Sought) -> None:
        self._out += [HangUp(peer, "it sent a corrupt piece", _SHUN_SECONDS) for peer in sought.liars()]

    def mismatched(self, key: BlobKey, now: float) -> None:
        """All pieces are there and the whole is wrong. Where other peers had a part in it, what they gave is fetched
        again; the second time all of it is, from origins alone."""
        sought = self.sought.get(key)
        if sought is None:
            return
        self._out.append(Tell(protocol.Corrupt(*key)))
        has_helpers = bool(sought.contacts) if sought.passes else bool(sought.from_neighbours)
        if sought.is_solitary or not has_helpers:
            self.fail(key, DigestMismatch(f"what came is not {key.digest}"))
            return
        sought.is_solitary, sought.has_begun_again = sought.has_begun_again, True
        self._void(sought, sought.layout.all if sought.is_solitary else sought.layout.all & ~sought.own, now)
        self._fetch_unless_helped(sought, now)

    def fail(self, key: BlobKey, error: Exception) -> None:
        """Give a blob up."""
        if self._close(key) is not None:
            self.exchange.sharing.withdraw(key)
            self.announcing.gave_up(key)
            self._out.append(Fail(key, error))

    def forgotten(self, key: BlobKey) -> None:
        """A blob that was stored is there no more."""
        self.exchange.sharing.withdraw(key)
        self.announcing.gave_up(key)

    def _close(self, key: BlobKey) -> Sought | None:
        sought = self.sought.get(key)
        if sought is not None:
            self.sourcing.closed(sought)
            self.exchange.closed(sought)
            del self.sought[key]
        return sought

    def _void(self, sought: Sought, pieces: PieceSet, now: float) -> None:
        """Pieces and the digests by which they were checked are not to be trusted, nor what followed from them."""
        if sought.passes:
            pieces = sought.layout.all  # readers were given, and the hash has seen, what is not there any more
            sought.filed, sought.hashed = 0, 0
        gone = pieces if sought.passes else pieces & sought.pieces.there
        self.exchange.sharing.withdraw(sought.key)
        untrusted = pieces & ~sought.pieces.leased  # what an origin sends was not checked by these digests
        self.exchange.cancel(sought.key, sought.pieces.void(untrusted))
        sought.forget(untrusted)
        self.exchange.dispute(sought, pieces)
        if gone:
            self._out.append(Discard(sought.key, gone))
        sought.told_at, sought.is_answered = now, False
        self.announcing.opened([sought])
        self.exchange.share_again(sought, now)
        if sought.passes:
            self.passing.slide(sought)

    def make_room(self) -> None:
        """Another blob is to be opened and there is no room: put away what nobody reads."""
        for sought in list(self.sought.values()):
            self._park_unless_used(sought)

    # --- what the runner did ----------------------------------------------------------------------------------------

    def landed(self, key: BlobKey, piece: int, digest: bytes, source: PeerId | StreamId, now: float) -> bool:
        """A piece is checked and written. Returns whether it counts: it may have been voided meanwhile."""
        sought = self.sought.get(key)
        if sought is None:
            return False
        if not sought.pieces.settle(piece):
            if isinstance(source, int):
                self.sourcing.unkept(source, piece)
            return False
        sought.moved_at = now
        sought.table[piece] = digest
        if not sought.passes:
            self.announcing.gained(key)
        if isinstance(source, int):
            sought.own |= 1 << piece
            sought.hearsay &= ~(1 << piece)
            self.sourcing.landed(source, piece, digest, now)
        else:
            self.exchange.requests.kept_claim(source)
        if sought.passes:
            self.passing.slide(sought)
        else:
            self.exchange.gained(sought, piece, now, own=isinstance(source, int))
        return True

    def corrupt(self, key: BlobKey, piece: int, peer: PeerId, expected: bytes, now: float) -> None:
        """A neighbour's piece does not match the digest that was told of it when it came."""
        sought = self.sought.get(key)
        if sought is not None:
            sought.pieces.reject(piece)
            if sought.table.get(piece) == expected:
                self.exchange.suspect(sought, piece, peer, now)
            self.exchange.due()

    def unwritable(self, key: BlobKey, piece: int, source: PeerId | StreamId, error: Exception) -> None:
        """The store does not take a piece."""
        sought = self.sought.get(key)
        if sought is not None:
            sought.pieces.reject(piece)
            if isinstance(source, int):
                self.sourcing.unkept(source, piece)
            self.fail(key, error)

    def fetch_ended(self, stream: StreamId, error: Exception | None, now: float) -> None:
        """A stream from an origin is over, well where `error` is None."""
        sought = self.sourcing.fetch_ended(stream, error, now)
        if sought is not None:
            self._judge(sought, now)
        for each in list(self.sought.values()):
            self._hasten(each, now)
            self._fetch_unless_helped(each, now)

    def _judge(self, sought: Sought, now: float) -> None:
        """A place has failed: those who named it alone hear of a refusal; without any other source all do.

        A client that was given something waits on for a place that may come back: a response that is cut is worse.
        """
        hopeful = sought.place(now) is not None or self.exchange.obtainable(sought, now)
        error = sought.error()
        if not hopeful and error is not None:
            begun = sought.book.readers.keys() - sought.unanswered.keys()
            if not begun or all(place.is_final for place in sought.places.values()):
                self.fail(sought.key, error)
                return
        for place in sought.places.values():
            if place.is_final and place.error is not None:
                self._out.append(FailReaders(sought.key, place.location, place.error))

    # --- the supernode ----------------------------------------------------------------------------------------------

    def joined(self, interval: float, now: float) -> None:
        """A supernode that knows nothing yet of this peer; it wants to hear of it each `interval` seconds."""
        self.exchange.sharing.tells_digests = False
        self.announcing.joined(interval, self._library.holdings(), now)

    def lost(self, now: float) -> None:
        """No supernode: what it granted goes on, and neighbours tell each other what they fetch."""
        self._lost_at = now
        self._lost_patience = self._settings.origin_wait * (0.25 + 0.75 * self._rng.random())
        self.announcing.connected = False
        self.sourcing.orphaned()
        self.exchange.sharing.tells_digests = True
        for sought in self.sought.values():
            self.exchange.sharing.tell_own(sought)
        self._tell_coming()

    def _tell_coming(self) -> None:
        """Tell neighbours of what comes without a lease, as long as no supernode does."""
        for sought in self.sought.values():
            pieces = self.sourcing.alone(sought)
            if pieces:
                self.exchange.sharing.tell_coming(sought, pieces)

    def heard(self, message: protocol.FromSupernode, now: float) -> None:
        """A message of the supernode; raises `InvalidMessage`."""
        match message:
            case protocol.Trim():
                self.sourcing.trimmed(message.lease, message.end)
                return
            case protocol.Revoke():
                self.sourcing.revoked(message.lease, now)
                return
        if isinstance(message, _NOT_OURS):
            raise InvalidMessage("not expected")
        key = key_of(message)
        sought = self.sought.get(key)
        if isinstance(message, protocol.Grant):
            self.sourcing.granted(sought, message, now)
            if sought is not None:
                self._hasten(sought, now)
        elif isinstance(message, protocol.NeedTable):
            self._need_table(key, sought)
        if sought is None:
            return
        match message:
            case protocol.BlobRefused():
                sought.is_refused = True
            case protocol.Handout():
                contacts = [(parse_peer_id(each.peer), each.host, each.port) for each in message.neighbours]
                self.exchange.meet(sought, contacts, now)
            case protocol.TableNews():
                self._learn(sought, message, now)
            case protocol.Void():
                pieces = pieces_of(message.pieces, sought.layout) if message.pieces else sought.layout.all
                self._void(sought, pieces & ~sought.own, now)
        sought.is_answered = True

    def _learn(self, sought: Sought, message: protocol.TableNews, now: float) -> None:
        pieces = pieces_of(message.pieces, sought.layout)
        if len(message.digests) != pieces.bit_count() * PIECE_DIGEST_SIZE:
            raise InvalidMessage("not one digest for each piece")
        contradicted = sought.contradicted(iterate(pieces), message.digests)
        self.exchange.dispute(sought, contradicted)
        if wrong := contradicted & sought.from_neighbours:
            self._void(sought, wrong, now)
        sought.learn(iterate(pieces), message.digests, hearsay=False)
        self.exchange.due()

    def _need_table(self, key: BlobKey, sought: Sought | None) -> None:
        if sought is not None:
            pieces, digests = sought.digests(sought.pieces.there)
            if pieces:
                self._out.append(Tell(protocol.Table(*key, to_bitfield(pieces, sought.layout.count), digests)))
        elif self._library.holds(key):
            self._out.append(TellTable(key))
        else:
            self.announcing.gave_up(key)

    # --- time -------------------------------------------------------------------------------------------------------

    def wake(self, now: float) -> None:
        """Say what was collected until `wake_at`."""
        self.exchange.sharing.wake(now)

    def tick(self, now: float) -> None:
        """Look after everything that time changes. Call some times a second."""
        self.exchange.tick(now)
        for judged in self.sourcing.tick(now):
            self._judge(judged, now)
        self.announcing.tick(now)
        if not self.connected and now - self._told_coming_at > _COMING_AGAIN_SECONDS:
            self._told_coming_at = now
            self._tell_coming()
        self._give_way(now)
        for sought in list(self.sought.values()):
            self._look_after(sought, now)

    def _look_after(self, sought: Sought, now: float) -> None:
        hopeless = self.waiting.answer(sought, now)
        if hopeless is not None:
            self.fail(sought.key, hopeless)
            return
        self._hasten(sought, now)
        self._fetch_unless_helped(sought, now)
        self.waiting.look_after(sought, now)
        if sought.waits:
            waited = now - min(sought.waits.values())
            if sought.book.lacking and waited > _GIVE_UP_SECONDS and now - sought.moved_at > _GIVE_UP_SECONDS:
                self.fail(sought.key, sought.error() or DownloadFailed("nobody gives this blob"))
                return
        sharers = len(self.exchange.sharers(sought))
        few = sharers < min(_FEW_NEIGHBOURS, sought.most_sharers)
        if self.connected and few and now - max(sought.sought_at, sought.told_at) > _SEEK_SECONDS:
            sought.sought_at = now
            self.announcing.seek(sought)
        if now - sought.idle_since > _PARK_SECONDS:
            self._park_unless_used(sought)

    def _hasten(self, sought: Sought, now: float) -> None:
        self.waiting.hasten(sought, now, alone=self._is_alone(sought, now))

    def _park_unless_used(self, sought: Sought) -> None:
        """Where nobody reads a blob, and what was asked for of it is there, it is saved as it is."""
        is_read = bool(sought.book.readers or sought.unanswered)
        if not is_read and (sought.passes or (sought.pieces.missing and not sought.book.lacking)):
            self._close(sought.key)
            self.exchange.sharing.withdraw(sought.key)
            self.announcing.gave_up(sought.key)
            self._out.append(Park(sought.key))

    def _fetch_unless_helped(self, sought: Sought, now: float) -> None:
        """Go to the origin without the supernode where there is none, where it is gone, or where it does not answer."""
        if sought.key not in self.sought:
            return
        alone = self._is_alone(sought, now)
        if sought.passes:
            self.passing.fetch(sought, now, alone=alone)
        elif sought.book.lacking and alone:
            self.sourcing.fetch_alone(sought, now)

    def _is_alone(self, sought: Sought, now: float) -> bool:
        """Whether no supernode decides who fetches this blob."""
        if not self._settings.has_supernode or sought.is_refused or sought.is_solitary:
            return True
        if self.connected:
            return not sought.is_answered and now - sought.told_at > self._settings.origin_wait
        return now - self._lost_at > self._lost_patience

    # --- neighbours -------------------------------------------------------------------------------------------------

    def arrived(self, peer: PeerId, now: float) -> None:
        """A neighbour is connected and has said who it is."""
        self.exchange.arrived(peer, now)

    def gone(self, peer: PeerId, now: float) -> None:
        """A neighbour's connection is over."""
        self.exchange.gone(peer, now)

    def unreachable(self, peer: PeerId, now: float) -> None:
        """A peer could not be connected to."""
        self.exchange.unreachable(peer, now)

    def said(self, peer: PeerId, message: wire.Kinds, now: float) -> None:
        """A message of a neighbour; raises `InvalidMessage`, after which the connection is to be closed."""
        if peer in self.exchange.sharing.told:
            self.exchange.said(peer, message, now)

    def uploaded(self, upload: Upload) -> None:
        """A piece that was to be served has left, or its connection is gone."""
        self.exchange.uploading.uploaded(upload)

    def unservable(self, upload: Upload) -> None:
        """A piece that was to be served cannot be read."""
        self.exchange.uploading.unservable(upload)
