"""Pieces from the neighbours: who has what, what to ask whom for, and who is told of what came."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Iterable

import structlog

from peer import wire
from peer.download import Download
from peer.metrics import PeerMetrics
from peer.neighbours import Neighbour, Neighbours
from peer.picker import BlobBook, Choice, Picker
from peer.requests import Requests
from peer.serving import Library, Serving
from peer.uploads import Upload
from shoal.digest import Digest, InvalidDigest
from shoal.messages import InvalidMessage
from shoal.pieces import PieceIndex, PieceSet, from_bitfield, iterate, to_bitfield
from supernode.protocol import PeerId

log = structlog.get_logger()

_JOIN_DELAY = 0.005
"""Seconds for which handouts are collected: an image of 41 layers is 41 of them, to be told to each neighbour
as one."""
_STUCK_REST = 10.0


class PieceExchange:
    """The swarm side of a peer."""

    def __init__(
        self, library: Library, metrics: PeerMetrics, peer: PeerId, host: str, port: int, slots: int, rng: random.Random
    ) -> None:
        self._library = library
        self._metrics = metrics
        self._downloads: dict[Digest, Download] = {}
        self._contacts: dict[Digest, set[PeerId]] = {}
        self._rng = rng
        self._picker = Picker(rng)
        self._requests = Requests()
        self._to_join: dict[PeerId, list[Digest]] = {}
        self._news: dict[Digest, PieceSet] = {}
        self._news_timer: asyncio.TimerHandle | None = None
        self._taking: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self.leases = 0
        """Streams from the origin: each takes one download slot."""
        self.neighbours = Neighbours(peer, host, port, self)
        self._serving = Serving(library, metrics, self.neighbours, slots, rng)
        metrics.neighbours.set_function(lambda: len(self.neighbours.all))

    # --- downloads ------------------------------------------------------------------------------------------------

    def open(self, download: Download) -> None:
        """Fetch the missing pieces of a blob from the swarm, and offer what is there."""
        book = BlobBook(download.layout, download.missing)
        self._downloads[download.blob.digest] = download
        self._picker.books[download.blob.digest] = book

    def close(self, download: Download) -> None:
        """A download is over."""
        digest = download.blob.digest
        if self._downloads.pop(digest, None) is None:
            return
        del self._picker.books[digest]
        self._contacts.pop(digest, None)
        for peer, piece in self._requests.withdraw(digest):
            self._tell(peer, wire.Cancel(digest, piece))
        self.schedule()

    def withdraw(self, digest: Digest) -> None:
        """This peer has nothing of a blob any more."""
        self._news.pop(digest, None)
        for neighbour in self.neighbours.all.values():
            if digest in neighbour.told:
                neighbour.told.discard(digest)
                neighbour.connection.send(wire.Part([digest]))

    def restart(self, download: Download) -> None:
        """All pieces of a blob are void, here and at the others."""
        if download.blob.digest in self._downloads:
            contacts = self._contacts.get(download.blob.digest, set())
            self.close(download)
            self.withdraw(download.blob.digest)
            self.open(download)
            self._contacts[download.blob.digest] = contacts
            for peer in contacts:
                self._join_soon(peer, download.blob.digest)

    def meet(self, digest: Digest, contacts: Iterable[tuple[PeerId, str, int]]) -> None:
        """Neighbours for a blob, from a handout."""
        peers = self._contacts.setdefault(digest, set())
        for peer, host, port in contacts:
            peers.add(peer)
            neighbour = self.neighbours.all.get(peer)
            if neighbour is None:
                self.neighbours.meet(peer, host, port)
            else:
                self._join_soon(peer, digest)

    def reserve(self, download: Download, pieces: PieceSet) -> None:
        """Pieces that a lease fetches are not asked of neighbours."""
        book = self._picker.books.get(download.blob.digest)
        if book is not None:
            book.pending |= pieces & book.missing

    def unreserve(self, download: Download, pieces: PieceSet) -> None:
        """A lease has given pieces up."""
        book = self._picker.books.get(download.blob.digest)
        if book is not None:
            book.pending &= ~pieces
            self.schedule()

    def digests_known(self, download: Download, pieces: PieceSet) -> None:
        """Pieces that can be checked now."""
        book = self._picker.books.get(download.blob.digest)
        if book is not None:
            book.known |= pieces
            self.schedule()

    def obtainable(self, download: Download) -> PieceSet:
        """Missing pieces that some neighbour has and that can be checked, or that are underway."""
        book = self._picker.books.get(download.blob.digest)
        if book is None:
            return 0
        held = 0
        for pieces in book.holders.values():
            held |= pieces
        return book.missing & ((held & book.known) | book.pending)

    def is_lost(self, download: Download) -> bool:
        """Whether pieces left the origin already, so that no lease will come for them, and no neighbour has any."""
        book = self._picker.books.get(download.blob.digest)
        return book is not None and bool(book.missing & book.known) and not self.obtainable(download)

    def gained(self, download: Download, index: PieceIndex, rare: bool) -> None:
        """A piece is in the store: tell those who lack it."""
        digest = download.blob.digest
        book = self._picker.books.get(digest)
        if book is not None:
            book.missing &= ~(1 << index)
            book.pending &= ~(1 << index)
        self._news[digest] = self._news.get(digest, 0) | 1 << index
        if rare or book is None or download.missing == 0:
            self._tell_news()
        elif self._news_timer is None:
            delay = book.news_delay(self._requests.depth)
            self._news_timer = asyncio.get_running_loop().call_later(delay, self._tell_news)
        self.schedule()

    def tick(self) -> None:
        """Let go of requests that got stuck. Call some times a second."""
        now = time.monotonic()
        for peer in self._requests.stuck(now):
            log.info("neighbour.stuck", peer=peer)
            for digest, piece in self._requests.drop(peer):
                self._free(digest, piece)
            self._requests.rest_long(peer, now, _STUCK_REST)
        self._serving.tick(now)
        self._count_sources()
        self.schedule()

    @property
    def idle(self) -> bool:
        """Whether nothing is being sent to neighbours."""
        return self._serving.idle

    async def settle(self) -> None:
        """Wait for the pieces that are being checked and written."""
        await asyncio.gather(*self._taking)

    # --- asking ---------------------------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Send as many requests as may be outstanding, once for all that has come at the same moment."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._ask_for_more)

    def _ask_for_more(self) -> None:
        self._scheduled = False
        requests = self._requests
        limit = requests.depth - self.leases * max(1, requests.depth // self._serving.slots)
        room = limit - requests.count
        if room <= 0 or not self._downloads or len(self._taking) > 2 * requests.depth:
            return
        now = time.monotonic()
        most = requests.most_at_one
        idle = requests.takers(self.neighbours.all, now)
        for digest, download in self._downloads.items():
            self._picker.books[digest].readers = download.readers
        late = functools.partial(requests.late, now=now)
        for _ in range(room):
            choice = self._picker.choose(idle, requests.cost)
            if choice is None and not self.leases:
                choice = self._picker.choose_again(idle, requests.cost, late)
            if choice is None:
                return
            self._ask(choice, now)
            if requests.load(choice.peer) >= most:
                idle.remove(choice.peer)

    def _ask(self, choice: Choice, now: float) -> None:
        self._picker.books[choice.digest].pending |= 1 << choice.piece
        self._requests.sent(choice.peer, choice.digest, choice.piece, now)
        self._tell(choice.peer, wire.Request(choice.digest, choice.piece))

    def _count_sources(self) -> None:
        """How many neighbours the requests can be spread over."""
        self._requests.sources = len({peer for book in self._picker.books.values() for peer in book.holders})

    def _free(self, digest: Digest, piece: int) -> None:
        book = self._picker.books.get(digest)
        if book is not None:
            book.pending &= ~(1 << piece)

    def _tell(self, peer: PeerId, message: wire.Kinds) -> None:
        neighbour = self.neighbours.all.get(peer)
        if neighbour is not None:
            neighbour.connection.send(message)

    # --- neighbours come, go and speak (peer.neighbours.Exchange) -------------------------------------------------

    def arrived(self, neighbour: Neighbour) -> None:
        """A new connection: say what we share."""
        self._join(neighbour, [digest for digest, peers in self._contacts.items() if neighbour.peer in peers])

    def gone(self, neighbour: Neighbour, reason: str) -> None:
        """A connection is over: what was asked there is asked elsewhere."""
        for book in self._picker.books.values():
            book.parted(neighbour.peer)
        for digest, piece in self._requests.drop(neighbour.peer):
            self._free(digest, piece)
        self._serving.drop(neighbour.peer)
        self.schedule()

    def accept(self, neighbour: Neighbour, piece: wire.Piece) -> bytearray | None:
        """Memory for a piece that was asked for and is of the right length."""
        digest = _digest(piece.digest)
        download = self._downloads.get(digest)
        now = time.monotonic()
        if download is None or not self._requests.began(neighbour.peer, digest, piece.piece, now):
            return None
        if piece.length != download.layout.length(piece.piece):
            raise InvalidMessage(f"piece {piece.piece} of {piece.length} bytes")
        return bytearray(piece.length)

    def said(self, neighbour: Neighbour, event: wire.Event) -> None:
        """A message of a neighbour; raises `InvalidMessage`."""
        self._requests.heard(neighbour.peer, neighbour.connection.heard_at)
        match event:
            case wire.PieceReceived():
                self._piece(neighbour, event)
            case wire.Have():
                self._have(neighbour, event)
            case wire.Request():
                self._serving.request(neighbour, Upload(neighbour.peer, _digest(event.digest), event.piece))
            case wire.Busy():
                self._unserved(neighbour, event)
                self._requests.busy(neighbour.peer, time.monotonic())
                self.schedule()
            case wire.Ready():
                self._requests.ready(neighbour.peer)
                self.schedule()
            case wire.Absent():
                self._unserved(neighbour, event)
                book = self._picker.books.get(_digest(event.digest))
                if book is not None:
                    book.held(neighbour.peer, book.holders.get(neighbour.peer, 0) & ~(1 << event.piece))
                self.schedule()
            case wire.Cancel():
                self._serving.cancel(Upload(neighbour.peer, _digest(event.digest), event.piece))
            case wire.Join():
                self._joined(neighbour, event)
            case wire.Part():
                for text in event.digests:
                    self._parted(neighbour, _digest(text))
            case wire.Hello():
                raise InvalidMessage("a second hello")
            case _:
                raise InvalidMessage(f"an unexpected {type(event).__name__}")

    def _join_soon(self, peer: PeerId, digest: Digest) -> None:
        if not self._to_join:
            asyncio.get_running_loop().call_later(_JOIN_DELAY, self._join_all)
        self._to_join.setdefault(peer, []).append(digest)

    def _join_all(self) -> None:
        """Say what we share of the blobs of the last handouts."""
        waiting, self._to_join = self._to_join, {}
        for peer, digests in waiting.items():
            neighbour = self.neighbours.all.get(peer)
            if neighbour is not None:
                self._join(neighbour, digests)

    def _join(self, neighbour: Neighbour, digests: Iterable[Digest]) -> None:
        joined = []
        for digest in digests:
            offer = self._library.offer(digest)
            if offer is not None and digest not in neighbour.told:
                neighbour.told.add(digest)
                complete = offer.have == offer.layout.all
                have = b"" if complete else to_bitfield(offer.have, offer.layout.count)
                joined.append(wire.Joined(digest, offer.layout.size, have))
        for start in range(0, len(joined), wire.MAX_JOINED):
            neighbour.connection.send(wire.Join(joined[start : start + wire.MAX_JOINED]))

    def _joined(self, neighbour: Neighbour, message: wire.Join) -> None:
        known, unknown = [], []
        for blob in message.blobs:
            digest = _digest(blob.digest)
            offer = self._library.offer(digest)
            if offer is None or offer.layout.size != blob.size:
                unknown.append(blob.digest)
                continue
            try:
                have = from_bitfield(blob.have, offer.layout.count) if blob.have else offer.layout.all
            except ValueError as error:
                raise InvalidMessage(str(error)) from None
            neighbour.joined.add(digest)
            known.append(digest)
            book = self._picker.books.get(digest)
            if book is not None:
                book.held(neighbour.peer, have)
        self._join(neighbour, known)
        if unknown:
            neighbour.connection.send(wire.Part(unknown))
        self._count_sources()
        self.schedule()

    def _parted(self, neighbour: Neighbour, digest: Digest) -> None:
        neighbour.joined.discard(digest)
        neighbour.told.discard(digest)
        book = self._picker.books.get(digest)
        if book is not None:
            book.parted(neighbour.peer)

    def _have(self, neighbour: Neighbour, message: wire.Have) -> None:
        book = self._picker.books.get(_digest(message.digest))
        if book is None:
            return
        pieces = 0
        for index in message.pieces:
            if not book.layout.is_valid(index):
                raise InvalidMessage(f"piece {index} of a blob of {book.layout.count} pieces")
            pieces |= 1 << index
        book.gained(neighbour.peer, pieces)
        if pieces & book.wanted:
            self.schedule()

    def _unserved(self, neighbour: Neighbour, message: wire.Busy | wire.Absent) -> None:
        digest = _digest(message.digest)
        if self._requests.forget(neighbour.peer, digest, message.piece):
            self._free(digest, message.piece)

    def _piece(self, neighbour: Neighbour, event: wire.PieceReceived) -> None:
        digest = _digest(event.digest)
        download = self._downloads.get(digest)
        if event.buffer is None or download is None:
            self._metrics.pieces.labels("duplicate").inc()
            return
        now = time.monotonic()
        self._metrics.bytes.labels("peer", "in").inc(len(event.buffer))
        seconds = self._requests.seconds(neighbour.peer, digest, event.piece, now)
        if seconds is not None:
            self._metrics.piece_seconds.observe(seconds)
        for other in self._requests.done(neighbour.peer, digest, event.piece, len(event.buffer), now):
            self._tell(other, wire.Cancel(digest, event.piece))
        task = asyncio.create_task(self._take(neighbour, download, event.piece, event.buffer))
        self._taking.add(task)
        task.add_done_callback(self._taken)
        self.schedule()

    def _taken(self, task: asyncio.Task[None]) -> None:
        self._taking.discard(task)
        self.schedule()

    async def _take(self, neighbour: Neighbour, download: Download, piece: int, content: bytearray) -> None:
        expected = download.table.get(piece)
        if expected is None:
            self._free(download.blob.digest, piece)
            return
        if download.have >> piece & 1:
            self._metrics.pieces.labels("duplicate").inc()
            return
        digest = await download.take(piece, content, expected)
        if digest == expected:
            self._metrics.pieces.labels("verified").inc()
        elif not download.over:
            self._metrics.pieces.labels("corrupt").inc()
            log.warning("piece.corrupt", peer=neighbour.peer, digest=download.blob.digest, piece=piece)
            self._free(download.blob.digest, piece)
            self.neighbours.shun(neighbour, "it sent a corrupt piece")

    # --- news -----------------------------------------------------------------------------------------------------

    def _tell_news(self) -> None:
        """Tell each neighbour of new pieces, but not of those that it has itself; in a new order each time, since the
        first ask first."""
        if self._news_timer is not None:
            self._news_timer.cancel()
            self._news_timer = None
        news, self._news = self._news, {}
        neighbours = list(self.neighbours.all.values())
        self._rng.shuffle(neighbours)
        for digest, pieces in news.items():
            book = self._picker.books.get(digest)
            frames: dict[PieceSet, bytes] = {}
            for neighbour in neighbours:
                if digest not in neighbour.told:
                    continue
                lacking = pieces & ~(book.holders.get(neighbour.peer, 0) if book is not None else 0)
                if lacking:
                    if lacking not in frames:
                        frames[lacking] = wire.frame(wire.Have(digest, list(iterate(lacking))))
                    neighbour.connection.send_raw(frames[lacking])


@functools.lru_cache(maxsize=1024)
def _digest(text: str) -> Digest:
    try:
        return Digest(text)
    except InvalidDigest as error:
        raise InvalidMessage(str(error)) from None
