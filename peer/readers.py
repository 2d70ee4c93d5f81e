"""Who reads a blob that is on its way, and what each was given.

A reader gets bytes of a piece that still streams in. It is right by the end all the same: what it was given of a piece
is compared with what landed there, the last byte of what it wants is held back until every piece that it was given from
has landed, and the last piece of the blob until the digest of the whole has matched. A reader that was given something
else fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from peer.account import Cause, current_account
from peer.disk import StoreError
from peer.errors import DownloadFailed
from peer.partial import Partial
from peer.passage import Passage
from peer.sink import Sink, Source, Unreadable
from shoal.pieces import KIB, MIB, PieceLayout, PieceSet, iterate, leading_run, run_of
from shoal.reference import Location

_READ_SIZE = 1 * MIB
_PASSING_READ_SIZE = 128 * KIB
"""Of a blob that passes by the store: what a slow client has not taken yet is in memory as well."""


@dataclass(slots=True)
class GrowingPiece:
    """A piece that streams in from an origin: its first `filled` bytes may be read already."""

    buffer: bytearray
    filled: int = 0


class Reader:
    """One client's way through a blob."""

    def __init__(self, readers: Readers, number: int, location: Location, *, is_ranged: bool) -> None:
        self.location = location
        self.number = number
        self.is_ranged = is_ranged
        """Whether it reads ranges, of which nobody takes it that they make the digest of the whole."""
        self.error: Exception | None = None
        self.is_answered = False
        """Whether `ready` is to wait no longer."""
        self.account = current_account()
        """Where its client's time goes."""
        self.waits_for: int | None = None
        """The piece at which it stands and waits."""
        self._readers = readers
        self._passed: PieceSet = 0
        """Pieces that bytes were given from."""
        self._sending: int | None = None
        """The offset of bytes that the sink takes from the file at this moment."""
        self._given: dict[int, tuple[bytearray, int]] = {}
        """Pieces that have not landed: the memory that bytes were given from, and how many."""
        self._owed: dict[int, bytes] = {}
        """Pieces that were given, whole or in part, and are void: the digest that they have to have again."""

    @property
    def unsettled(self) -> int | None:
        """The first piece of which bytes were given and which has not landed since."""
        return min(self._given.keys() | self._owed.keys(), default=None)

    async def ready(self, start: int) -> None:
        """Wait until a byte at `start` can be given, or nobody is to wait longer; raises what the blob failed with."""
        await self._readers.wait(self, start, start + 1, look_only=True)

    async def send(self, sink: Sink, start: int, end: int) -> None:
        """Give bytes `start` to `end` as they come; raises what the blob failed with."""
        readers = self._readers
        offset = start
        while offset < end:
            count = await readers.wait(self, offset, end)
            index = readers.layout.at(offset)
            if readers.has_landed(index):
                is_last = offset + count == end and not readers.is_verified
                count -= is_last and count > 1  # the last byte of a part goes alone
                last = readers.layout.at(offset + count - 1)
                self._passed |= run_of(index, last - index + 1)
                count = await self._send_landed(sink, offset, count, is_last=is_last)
            else:
                self._passed |= 1 << index
                growing = readers.growing[index]
                first = offset - readers.layout.span(index).start
                self._give(index, growing.buffer, first, first + count)
                await sink.write(memoryview(growing.buffer)[first : first + count])
            offset += count
        if self.error is not None:
            raise self.error

    async def _send_landed(self, sink: Sink, offset: int, count: int, *, is_last: bool) -> int:
        """Give bytes of pieces that have landed; returns how many could be read. Raises `DownloadFailed`."""
        partial = self._readers.partial
        if isinstance(partial, Passage) or (is_last and count == 1):
            # as it is now: the file may be written to again while it is on its way from there
            try:
                content = partial.read(offset, count)
            except StoreError as error:
                self._readers.unreadable(error)
                return 0
            await sink.write(content)
            return count
        try:
            partial.check()
        except StoreError as error:
            self._readers.unreadable(error)
            return 0
        self._sending = offset
        try:
            with partial.file as fd:
                await sink.send_file(fd, offset, offset + count)
        except Unreadable as error:
            self._readers.unreadable(StoreError(str(error)))
            return error.taken
        finally:
            self._sending = None
        return count

    def _give(self, index: int, buffer: bytearray, first: int, end: int) -> None:
        """Take note of bytes `first` to `end` of a piece; those before may have been given from another attempt."""
        before, count = self._given.get(index, (buffer, first))
        if before is not buffer and before[:count] != buffer[:count]:
            raise DownloadFailed("bytes that were sent already have come otherwise the second time")
        self._given[index] = buffer, end

    def landed(self, index: int, content: bytearray, digest: bytes) -> None:
        """A piece is what it stays: what was given of it has to be that."""
        buffer, count = self._given.pop(index, (content, 0))
        owed = self._owed.pop(index, digest)
        if owed != digest or (buffer is not content and buffer[:count] != content[:count]):
            self.fail(DownloadFailed("bytes that were sent already have turned out to be wrong"))

    def voided(self, index: int, digest: bytes) -> None:
        """A piece that had landed is void."""
        if self._passed >> index & 1:
            self._owed.setdefault(index, digest)
            if self._sending is not None and index >= self._readers.layout.at(self._sending):
                self.fail(DownloadFailed("a piece turned out to be void while it was sent"))

    def fail(self, error: Exception) -> None:
        """Nothing more is given to this reader."""
        if self.error is None:
            self.error = error


class Readers:
    """All readers of one blob. `told(number, piece, waits_since)` hears where each stands, `left` who goes.

    `unreadable` hears that pieces cannot be read that were written. They are not had any more when it returns, else it
    raises `DownloadFailed`. `waited` hears how long each reader waited that got bytes in the end.
    """

    def __init__(
        self,
        partial: Partial | Passage,
        told: Callable[[int, int, float | None], None],
        left: Callable[[int], None],
        unreadable: Callable[[Exception], None],
        waited: Callable[[float], None],
    ) -> None:
        self.partial = partial
        self.unreadable = unreadable
        self._waited = waited
        self.layout: PieceLayout = partial.layout
        self.growing: dict[int, GrowingPiece] = {}
        self.is_verified = False
        self.error: Exception | None = None
        self._from_origin: PieceSet = 0
        self._from_peers: PieceSet = 0
        """Which pieces came from where in this run of the daemon; of others there was a file already."""
        self._told = told
        self._left = left
        self._readers: dict[int, Reader] = {}
        self._waiting: set[asyncio.Future[None]] = set()
        self._last = 0

    def __len__(self) -> int:
        return len(self._readers)

    @property
    def are_waiting(self) -> bool:
        """Whether a reader waits for bytes."""
        return bool(self._waiting)

    @property
    def waiting(self) -> Iterator[tuple[Reader, int]]:
        """Readers that wait for bytes, and the pieces at which they stand."""
        for reader in self._readers.values():
            if reader.waits_for is not None:
                yield reader, reader.waits_for

    def get(self, number: int) -> Reader | None:
        """A reader that is here, by its number."""
        return self._readers.get(number)

    def enter(self, location: Location, *, is_ranged: bool = False) -> Reader:
        """A new reader, of a client that named `location` and wants all of the blob, or ranges of it."""
        self._last += 1
        reader = self._readers[self._last] = Reader(self, self._last, location, is_ranged=is_ranged)
        return reader

    def leave(self, reader: Reader) -> None:
        """A reader has all that it wanted, or its client is gone."""
        if self._readers.pop(reader.number, None) is not None:
            self._left(reader.number)

    # --- what becomes of the blob -------------------------------------------------------------------------------------

    def landed(self, index: int, content: bytearray, digest: bytes, *, from_origin: bool) -> None:
        """A piece has landed for good, if the whole is right."""
        self.growing.pop(index, None)
        if from_origin:
            self._from_origin |= 1 << index
        else:
            self._from_peers |= 1 << index
        for reader in self._readers.values():
            reader.landed(index, content, digest)
        self.changed()

    def voided(self, pieces: PieceSet) -> None:
        """Pieces that had landed are void; the partial still knows their digests."""
        for index in iterate(pieces):
            for reader in self._readers.values():
                reader.voided(index, self.partial.table.get(index, b""))

    def verified(self) -> None:
        """The digest of the whole has matched: the last piece may be given."""
        self.is_verified = True
        self.changed()

    def fail(self, error: Exception, location: Location | None = None) -> None:
        """Nothing more comes for anybody, or for those who named `location`."""
        if location is None:
            self.error = error
        for reader in self._readers.values():
            if location in (None, reader.location):
                reader.fail(error)
        self.changed()

    def answer(self, number: int, error: Exception | None) -> None:
        """A reader has waited long enough to begin: it fails, or its client sees how it goes on."""
        reader = self._readers.get(number)
        if reader is not None:
            reader.is_answered = True
            if error is not None:
                reader.fail(error)
            self.changed()

    def changed(self) -> None:
        """Wake those who wait."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    def sources(self, start: int, end: int) -> Iterator[tuple[Source, int]]:
        """Where bytes `start` to `end` came from, and how many from there; each place may be named several times."""
        while start < end:
            index = self.layout.at(start)
            count = (end if index == self.layout.last else min(self.layout.span(index).end, end)) - start
            if index in self.growing or self._from_origin >> index & 1:
                yield "origin", count
            else:
                yield "peer" if self._from_peers >> index & 1 else "store", count
            start += count

    # --- what readers ask ---------------------------------------------------------------------------------------------

    def has_landed(self, index: int) -> bool:
        return bool(self.partial.have >> index & 1)

    async def wait(self, reader: Reader, offset: int, end: int, *, look_only: bool = False) -> int:
        """Wait until bytes at `offset` may be given to a reader that wants those up to `end`, and say how many."""
        index = self.layout.at(offset)
        since: float | None = None
        waits_for: int | None = None
        while True:
            if reader.error is not None:
                raise reader.error
            # the last byte is held back as long as what was given before it may turn out to be something else
            unsettled = reader.unsettled
            last = self.layout.size if look_only else end - 1 if unsettled is not None else end
            count = self._can_give(reader, offset, last)
            if look_only and reader.is_answered:
                return 0
            if count > 0 or (self.is_verified and offset >= self.layout.size):
                stands: int = index
                if unsettled is not None and isinstance(self.partial, Passage):
                    stands = min(unsettled, index)  # what is behind a reader is let go, but for what it has to land yet
                self._told(reader.number, stands, None)
                if since is not None:
                    now, reader.waits_for = time.monotonic(), None
                    reader.account.turn(Cause.CLIENT, now)
                    self._waited(now - since)
                return count
            if self.error is not None:
                raise self.error
            since = since or time.monotonic()
            piece: int = index
            if unsettled is not None and (self.has_landed(index) or isinstance(self.partial, Passage)):
                piece = unsettled
            if piece != waits_for:
                waits_for = reader.waits_for = piece
                self._told(reader.number, piece, since)
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(waiter)
            try:
                await waiter
            finally:
                self._waiting.discard(waiter)

    def _is_held(self, reader: Reader) -> bool:
        """Whether the last piece is held back until the whole is verified: from who reads ranges only where nothing but
        that is missing, since it may not come at all."""
        if self.is_verified:
            return False
        return not reader.is_ranged or self.partial.have | 1 << self.layout.last == self.layout.all

    def _can_give(self, reader: Reader, offset: int, end: int) -> int:
        """How many bytes at `offset` may be given now, up to one read."""
        index = self.layout.at(offset)
        run = leading_run(self.partial.have, index)
        if index + run > self.layout.last and self._is_held(reader):
            run = self.layout.last - index
        most = _PASSING_READ_SIZE if isinstance(self.partial, Passage) else _READ_SIZE
        if run > 0:
            return min(self.layout.span(index + run - 1).end - offset, end - offset, most)
        growing = self.growing.get(index)
        if growing is None or index == self.layout.last:
            return 0
        count = min(growing.filled - (offset - self.layout.span(index).start), most)
        # the last byte comes from a piece that has landed
        return max(0, min(count, end - offset - 1))
