"""The machine's dealings with origins: leases that the supernode grants, and what is fetched without them. No I/O."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from peer.commands import Command, Fetch, Land, StopFetch, Tell
from peer.exchange import Exchange
from peer.origin import NoRange, OriginUnavailable
from peer.piecemap import StreamId
from peer.sought import Place, Sought
from shoal.pieces import MIB, PieceSet, first_of, leading_run, lowest, pick, run_of, set_of, trailing_run
from shoal.reference import Location
from supernode import protocol
from supernode.protocol import LeaseId, ReleaseReason

_AHEAD_STREAMS = 4
"""Streams without a lease for blobs that nobody waits for yet."""
_LONG_RUN = 16 * MIB
"""Bytes that a stream without a lease fetches in one go of a blob of which there are parts already."""
_SHARED_RUN, _SHARED_STREAMS = 2 * MIB, 2
"""Bytes of such a stream, and their number, where neighbours fetch other parts of the same blob."""
_RESCUE_RUN = 1 * MIB
"""Bytes that are fetched at once for a reader to whom nobody gives them."""
_HASTY_RUN, _LONG_HASTY_RUN = 8 * MIB, 64 * MIB
"""Bytes of a stream that brings what the reader of a range waits for, and those where as many before it were read.
Containerd reads a blob at several places in steps of 8 MiB."""
_HASTY_STREAMS, _HASTY_EACH = 8, 4
"""The number of such streams, and of those that are begun for one reader at a time."""
_REST_RUN = 4 * MIB
"""Bytes of a stream that brings what nobody waits for: a range that is asked for meanwhile shares the link with it."""
_SOON_SECONDS, _SOON = 1.0, 1 * MIB
"""A stream reaches a piece soon that it reaches in this time at its pace, or within so many bytes."""
_RETRY_SECONDS, _MAX_RETRY_SECONDS = 0.3, 1.5
"""Before a stream that broke off is opened again, doubled each time."""
_STREAM_PATIENCE = 3.0
"""Seconds without a byte after which a stream has failed: less than after which the supernode revokes its lease."""
_HELD_BACK_SECONDS = 1.0
"""After which a stream is let go whose pieces nobody has room for: it holds a connection that others need."""
_STIR_SECONDS = 1.0
"""For which the supernode has heard of no piece of a lease when it is told that one comes slowly."""
_SILENT_SECONDS = 2.0
"""A lease that is revoked after so long without a byte has met a place that is silent."""


@dataclass(eq=False, slots=True)
class Stream:
    """A connection to an origin that brings pieces, or waits to be opened again. What it is to bring stands in the map
    of its blob's pieces."""

    id: StreamId
    sought: Sought
    place: Place
    lease: LeaseId | None
    moved_at: float
    next_report: int
    """The piece of its lease that the supernode is told of next."""
    reported_at: float
    """When the supernode was told of it last."""
    end: int
    """Where its lease ends."""
    is_hasty: bool = False
    """Whether it brings what the reader of a range waits for."""
    is_running: bool = True
    began_at: float = 0.0
    brought: int = 0
    """Bytes of pieces since it was opened last, which was at `began_at`."""
    retry_at: float = float("inf")
    failures: int = 0
    landed: dict[int, bytes] = field(default_factory=dict)
    """Digests of pieces that landed before an earlier one did."""
    landing: set[int] = field(default_factory=set)

    @property
    def rest(self) -> PieceSet:
        return self.sought.pieces.leased_to(self.id)

    def pace(self, now: float) -> float:
        """Bytes/s of whole pieces since it was opened last."""
        return self.brought / max(now - self.began_at, _SOON_SECONDS)


class Sourcing:
    """The books of all streams. Events change them; what follows is put into `out`."""

    def __init__(self, exchange: Exchange, out: list[Command], rng: random.Random) -> None:
        self._exchange = exchange
        self._out = out
        self._rng = rng
        self._last_id = 0
        self.streams: dict[StreamId, Stream] = {}

    # --- leases ---------------------------------------------------------------------------------------------------

    def granted(self, sought: Sought | None, grant: protocol.Grant, now: float) -> None:
        """The supernode gives a lease."""
        lease = LeaseId(grant.lease)
        place = sought.places.get(Location.parse(grant.registry, grant.repository)) if sought is not None else None
        if sought is None or sought.passes or place is None or not 0 < grant.count <= sought.layout.count - grant.first:
            self._release(lease, ReleaseReason.CLOSED)
            return
        if sought.book.stands_back:
            self._release(lease, ReleaseReason.CLOSED)
            return
        if not place.is_usable(now):
            self._release(lease, ReleaseReason.DENIED if place.is_final else ReleaseReason.FAILED)
            return
        wanted = run_of(grant.first, grant.count) & sought.book.unleased
        stream = self._stream(sought, place, lease, run_of(grant.first, grant.count), now)
        if wanted:
            self._begin(stream, wanted)
        self._report(stream)
        if not wanted:
            self._release(lease, ReleaseReason.CLOSED)
            self._end(stream)

    def trimmed(self, lease: int, end: int) -> None:
        """A lease is to end earlier than it was granted. What has come stays, and the piece that is coming."""
        stream = self._holding(lease)
        if stream is not None:
            reached = lowest(stream.rest) + stream.is_running if stream.rest else stream.end
            stream.end = min(stream.end, max(end, reached))
            self._out.append(Tell(protocol.Trimmed(LeaseId(lease), stream.end)))
            self._give_up(stream, stream.rest & -1 << stream.end)

    def revoked(self, lease: int, now: float) -> None:
        """A lease is over; where its place was silent, that is a failure of the place."""
        stream = self._holding(lease)
        if stream is not None:
            if stream.is_running and not stream.landing and now - stream.moved_at > _SILENT_SECONDS:
                stream.place.failed(OriginUnavailable(f"{stream.place.location.registry} is silent"), now)
            self._give_up(stream, stream.rest)

    def orphaned(self) -> None:
        """The supernode that granted the leases is gone: what they bring comes without a lease."""
        for stream in self.streams.values():
            stream.lease = None

    # --- without a lease ------------------------------------------------------------------------------------------

    def fetch_alone(self, sought: Sought, now: float) -> None:
        """Fetch without a lease what no neighbour gives or is fetching, in an order of this peer's own."""
        if sought.book.stands_back:
            return
        if not sought.is_whole and self._hasty(sought):
            return  # the rest has its time when nobody waits for a range
        sharing = bool(self._exchange.sharers(sought))
        limit = _SHARED_STREAMS if sharing else 1
        if not sought.demanded and len(self.streams) >= _AHEAD_STREAMS:
            return
        while sum(not stream.is_hasty for stream in self._bringing() if stream.sought is sought) < limit:
            place = sought.place(now)
            pieces = sought.pieces
            needed = sought.book.unleased & ~self._exchange.obtainable(sought, now)
            needed &= ~self._exchange.coming(sought, now)
            if place is None or not needed:
                return
            if not place.ranges:
                sought.book.scope = sought.layout.all  # all of it comes in any case
                chosen = sought.book.unleased
            else:
                first = self._first(sought, needed, scattered=sharing)
                run = leading_run(needed, first)
                if sharing:
                    run = min(run, max(1, _SHARED_RUN // sought.layout.piece_size))
                elif not sought.is_whole:
                    run = min(run, max(1, _REST_RUN // sought.layout.piece_size))
                elif pieces.there or run < needed.bit_count():
                    run = min(run, max(1, _LONG_RUN // sought.layout.piece_size))
                chosen = run_of(first, run)
            self._begin(self._stream(sought, place, None, chosen, now), chosen)
            self._tell_coming(sought)

    def hasten(self, sought: Sought, reader: int, now: float, *, alone: bool) -> None:
        """The reader of a range waits: what it needs next is fetched at once, where a stream of this peer brings it
        late, which then leaves it out, and where nobody brings it, if this peer is `alone`."""
        place, book, layout = sought.place(now), sought.book, sought.layout
        reached = book.readers[reader]
        late = self._late(sought, now)
        if alone:
            late |= book.unleased & ~self._exchange.obtainable(sought, now) & ~self._exchange.coming(sought, now)
        if place is None or not place.ranges or not late >> reached & 1:
            return
        asked = book.asked[reader]
        read = trailing_run(sought.pieces.there & asked, reached) * layout.piece_size
        most = max(1, min(max(read, _HASTY_RUN), _LONG_HASTY_RUN) // layout.piece_size)
        late &= first_of(asked & sought.pieces.missing & -1 << reached, most)
        for _ in range(_HASTY_EACH):
            if not late or sum(stream.is_hasty for stream in self._bringing()) >= _HASTY_STREAMS:
                break
            first = lowest(late)
            chosen = run_of(first, leading_run(late, first))
            late &= ~chosen
            for other in [each for each in self.streams.values() if each.sought is sought and each.rest & chosen]:
                self._give_up(other, other.rest & chosen)
            stream = self._stream(sought, place, None, chosen, now)
            stream.is_hasty = True
            self._begin(stream, chosen)
        self._tell_coming(sought)

    def _hasty(self, sought: Sought) -> bool:
        """Whether something is fetched that the reader of a range waits for."""
        return any(stream.is_hasty and stream.sought is sought for stream in self._bringing())

    def _late(self, sought: Sought, now: float) -> PieceSet:
        """Pieces that a running stream of this peer is to bring, but not soon."""
        late, piece_size = 0, sought.layout.piece_size
        for stream in self.streams.values():
            if stream.sought is sought and stream.is_running:
                soon = max(_SOON, stream.pace(now) * _SOON_SECONDS)
                late |= stream.rest & ~first_of(stream.rest, 1 + int(soon // piece_size))
        return late

    def rescue(self, sought: Sought, piece: int, now: float, *, alone: bool) -> None:
        """A reader waits for `piece` and nobody gives it: fetch it at once, and a little more, where this peer is
        `alone` of anything, else of what no neighbour has."""
        place = sought.place(now)
        open_pieces = sought.book.unleased
        if place is None or not place.ranges or not open_pieces >> piece & 1:
            return
        spare = open_pieces if alone else open_pieces & ~sought.book.available
        run = max(1, min(leading_run(spare, piece), _RESCUE_RUN // sought.layout.piece_size))
        chosen = run_of(piece, run)
        self._begin(self._stream(sought, place, None, chosen, now), chosen)
        self._tell_coming(sought)

    def fetch_onwards(self, sought: Sought, first: int, needs: PieceSet, now: float, *, shared: bool) -> None:
        """For a blob that passes by the store: fetch from `first` on what is needed, a little where neighbours fetch
        the same blob. What there is no room for yet is held back."""
        place, pieces = sought.place(now), sought.pieces
        if place is None:
            return
        run = leading_run(needs & (pieces.absent | pieces.asked), first)
        if shared:
            run = min(run, max(1, _SHARED_RUN // sought.layout.piece_size))
        self._begin(self._stream(sought, place, None, run_of(first, run), now), run_of(first, run))

    def shorten(self, sought: Sought) -> None:
        """Neighbours have come that fetch the same blob: of what its streams are to bring, most may come from them."""
        most = max(1, _SHARED_RUN // sought.layout.piece_size)
        for stream in [each for each in self.streams.values() if each.sought is sought]:
            beyond = stream.rest & ~first_of(stream.rest, most)
            if beyond:
                self._give_up(stream, beyond)

    def stand_back(self, sought: Sought) -> None:
        """A client waits for another blob: of this one the pieces come that are coming, and no more for now."""
        for stream in [each for each in self.streams.values() if each.sought is sought]:
            if stream.lease is not None:
                self.trimmed(stream.lease, 0)
            elif not stream.is_running or stream.place.ranges:
                self._give_up(stream, stream.rest & ~first_of(stream.rest, int(stream.is_running)))

    def spare(self, sought: Sought, pieces: PieceSet) -> None:
        """Nobody needs these pieces any more."""
        for stream in [each for each in self.streams.values() if each.sought is sought and each.rest & pieces]:
            self._give_up(stream, stream.rest & pieces)

    def alone(self, sought: Sought) -> PieceSet:
        """The pieces of a blob that come without a lease."""
        streams = [each for each in self.streams.values() if each.sought is sought and each.lease is None]
        pieces = 0
        for stream in streams:
            pieces |= stream.rest | set_of(stream.landing)
        return pieces

    def is_moving(self, sought: Sought, piece: int, now: float, seconds: float) -> bool:
        """Whether a stream that is to bring `piece` has brought something in the last `seconds`."""
        return any(
            stream.rest >> piece & 1 and now - stream.moved_at < seconds
            for stream in self.streams.values()
            if stream.sought is sought
        )

    def _first(self, sought: Sought, needed: PieceSet, *, scattered: bool) -> int:
        """What a reader waits for; else, where others fetch too, a random piece, else the next one for a reader."""
        for piece in sought.book.readers.values():
            if needed >> piece & 1:
                return piece
        if scattered:
            return pick(needed, self._rng)
        ahead = needed & -1 << min(sought.book.readers.values(), default=0)
        return lowest(ahead or needed)

    def _tell_coming(self, sought: Sought) -> None:
        if not sought.passes:
            self._exchange.sharing.tell_coming(sought, self.alone(sought))

    # --- what streams bring ---------------------------------------------------------------------------------------

    def received(self, stream_id: StreamId, now: float) -> None:
        """Bytes came."""
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.moved_at = now
            if not stream.place.is_failing:
                stream.sought.moved_at = now

    def fetched(self, stream_id: StreamId, piece: int, content: bytearray) -> tuple[bool, bool]:
        """All bytes of a piece came. Returns whether it is kept, and whether the stream is to go on: where it need not
        bring the next piece, it is opened again behind that."""
        stream = self.streams.get(stream_id)
        if stream is None:
            return False, False
        stream.place.brought()
        stream.failures = 0
        stream.brought += len(content)
        kept = bool(stream.rest >> piece & 1)
        if kept:
            stream.sought.pieces.land_leased(piece, stream_id)
            stream.landing.add(piece)
            self._out.append(Land(stream.sought.key, piece, content, None, stream_id))
        rest = stream.rest
        return kept, bool(rest >> piece + 1 & 1 if stream.place.ranges else rest)

    def landed(self, stream_id: StreamId, piece: int, digest: bytes, now: float) -> None:
        """A piece of a stream is there."""
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        stream.landing.discard(piece)
        stream.landed[piece] = digest
        stream.reported_at = now
        self._report(stream)
        if stream.lease is None and not stream.rest:
            self._tell_coming(stream.sought)
        self._forget_if_over(stream)

    def unkept(self, stream_id: StreamId, piece: int) -> None:
        """A piece of a stream could not be kept."""
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.landing.discard(piece)
            self._forget_if_over(stream)

    def fetch_ended(self, stream_id: StreamId, error: Exception | None, now: float) -> Sought | None:
        """A stream is over. Returns its blob where that has to be judged: one of its places has failed."""
        stream = self.streams.get(stream_id)
        if stream is None:
            return None
        self._pause(stream)
        if not stream.rest:
            self._forget_if_over(stream)
            return None
        sought, place = stream.sought, stream.place
        if error is None and place.is_usable(now):
            self._fetch(stream, now)  # it has come to pieces that others bring
            return None
        if isinstance(error, NoRange):
            place.ranges = False
            self._give_back(stream, ReleaseReason.NO_RANGE)
            return sought
        failure = error if error is not None else OriginUnavailable("the origin's body ended early")
        place.failed(failure, now)
        stream.failures += 1
        other = sought.place(now)
        elsewhere = stream.lease is not None and other is not None and other is not place
        if elsewhere or not place.is_usable(now):  # a lease is for one place: another one needs another lease
            self._give_back(stream, ReleaseReason.DENIED if place.is_final else ReleaseReason.FAILED)
            return sought
        if other is not None and other is not place:
            stream.place, stream.failures = other, 0
        after = getattr(failure, "after", None) or 0.0
        pause = min(_RETRY_SECONDS * 2 ** (stream.failures - 1), _MAX_RETRY_SECONDS)
        stream.retry_at = now + max(after, pause)
        return None

    def closed(self, sought: Sought) -> None:
        """A blob is not sought any more."""
        for stream in [stream for stream in self.streams.values() if stream.sought is sought]:
            if stream.rest or stream.is_running:
                self._give_up(stream, stream.rest)
            self.streams.pop(stream.id, None)
        self._count()

    def tick(self, now: float) -> list[Sought]:
        """Open streams again whose time has come, and let go of silent ones. Returns blobs that are to be judged."""
        judged = []
        for stream in list(self.streams.values()):
            if now >= stream.retry_at:
                self._fetch(stream, now)
            elif stream.is_running and not stream.landing and now - stream.moved_at > _STREAM_PATIENCE:
                self._out.append(StopFetch(stream.id))
                failed = OriginUnavailable(f"{stream.place.location.registry} sent nothing for {_STREAM_PATIENCE:g} s")
                sought = self.fetch_ended(stream.id, failed, now)
                if sought is not None:
                    judged.append(sought)
            elif self._is_held_back(stream, now):
                self._give_up(stream, stream.rest)
            elif stream.lease is not None and stream.reported_at < stream.moved_at and self._is_slow(stream, now):
                stream.reported_at = now
                self._out.append(Tell(protocol.Progress(stream.lease, stream.next_report, b"")))
        return judged

    @staticmethod
    def _is_slow(stream: Stream, now: float) -> bool:
        """Whether its pieces take so long that the supernode might take it for silent."""
        return stream.is_running and now - stream.reported_at > _STIR_SECONDS

    @staticmethod
    def _is_held_back(stream: Stream, now: float) -> bool:
        """Whether the readers of a blob that passes by the store are slower than its origin. One that knows no ranges
        would have to begin again."""
        is_full = stream.sought.passes and stream.is_running and bool(stream.landing)
        return is_full and stream.place.ranges and now - stream.moved_at > _HELD_BACK_SECONDS

    def _bringing(self) -> list[Stream]:
        """Streams that are to bring something yet: the last pieces of others are being written."""
        return [stream for stream in self.streams.values() if stream.rest]

    # --- streams --------------------------------------------------------------------------------------------------

    def _stream(self, sought: Sought, place: Place, lease: LeaseId | None, run: PieceSet, now: float) -> Stream:
        self._last_id += 1
        first, end = lowest(run), run.bit_length()
        stream = Stream(StreamId(self._last_id), sought, place, lease, now, next_report=first, reported_at=now, end=end)
        self.streams[stream.id] = stream
        return stream

    def _begin(self, stream: Stream, pieces: PieceSet) -> None:
        self._exchange.cancel(stream.sought.key, stream.sought.pieces.lease(stream.id, pieces))
        self._fetch(stream, stream.moved_at)

    def _fetch(self, stream: Stream, now: float) -> None:
        rest = stream.rest
        stream.is_running, stream.retry_at = True, float("inf")
        stream.moved_at = stream.began_at = now
        stream.brought = 0
        first, end = 0, stream.sought.layout.count
        if stream.place.ranges:
            first = lowest(rest)
            end = first + leading_run(rest, first)
        self._out.append(Fetch(stream.id, stream.sought.key, stream.place.location, first, end))
        self._count()

    def _give_up(self, stream: Stream, pieces: PieceSet) -> None:
        """A stream is not to bring these pieces any more; without any it ends."""
        stream.sought.pieces.unlease(stream.id, pieces)
        if not stream.rest:
            if stream.is_running:
                self._out.append(StopFetch(stream.id))
            self._pause(stream)
            self._forget_if_over(stream)
        self._exchange.due()

    def _give_back(self, stream: Stream, reason: str) -> None:
        if stream.lease is not None:
            self._release(stream.lease, reason)
        self._give_up(stream, stream.rest)

    def _release(self, lease: LeaseId, reason: str) -> None:
        self._out.append(Tell(protocol.Release(lease, reason)))

    def _report(self, stream: Stream) -> None:
        """Tell of pieces in their order, whichever was written first; those that were there before are told too."""
        sought = stream.sought
        while stream.next_report < stream.end:
            piece = stream.next_report
            digest = stream.landed.pop(piece, None)
            if digest is None and sought.pieces.there >> piece & 1:
                digest = sought.table.get(piece)
            if digest is None:
                return
            if stream.lease is not None:
                second_hand = not sought.own >> piece & 1
                self._out.append(Tell(protocol.Progress(stream.lease, piece, digest, second_hand)))
            stream.next_report += 1

    def _pause(self, stream: Stream) -> None:
        stream.is_running = False
        self._count()

    def _forget_if_over(self, stream: Stream) -> None:
        if not stream.rest and not stream.landing and not stream.is_running:
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        self.streams.pop(stream.id, None)
        self._count()

    def _count(self) -> None:
        self._exchange.streams = sum(stream.is_running for stream in self.streams.values())
        self._exchange.due()

    def _holding(self, lease: int) -> Stream | None:
        return next((stream for stream in self.streams.values() if stream.lease == lease), None)
