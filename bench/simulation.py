"""A discrete-event simulation of a swarm that runs the real decisions: tracker, leases, handouts, picker, slots.

Only the network is made up. A transfer takes the smaller of what the sender's and the receiver's links have left for
it, and at least its equal share, looked at anew every 32 KiB; every message takes `LATENCY` seconds. Peers that have
the blob stay.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from peer.picker import BlobBook, Choice, Picker
from peer.requests import Requests
from peer.uploads import UPLOAD_SLOTS, Upload, UploadSlots
from shoal.digest import Digest
from shoal.pieces import PIECE_DIGEST_SIZE, PieceLayout, from_bitfield
from supernode import protocol
from supernode.handout import Contact
from supernode.protocol import FromPeer, FromSupernode, PeerId
from supernode.tracker import Tracker

LATENCY = 0.05
"""Seconds of each message: what a full link's queue costs."""
_TICK = 0.05
_HAVE_DELAY = 0.05
_CHUNK = 32 << 10
"""Bytes after which a transfer looks again at what share of the links it has."""
_DIGEST = Digest.of(b"simulated")


@dataclass(slots=True)
class _Link:
    """One direction of a link, in bytes/s. What some flows leave unused others may have, as TCP has it."""

    rate: float
    used: float = 0.0
    flows: int = 0

    @property
    def share(self) -> float:
        """What one more flow gets, or one that looks again."""
        return max(self.rate - self.used, self.rate / self.flows)


@dataclass(eq=False)
class Peer:
    """A simulated peer with the real books. Rates in bytes/s."""

    id: PeerId
    rate: float
    layout: PieceLayout
    rng: random.Random
    book: BlobBook = field(init=False)
    have: int = 0
    leases: dict[int, list[int]] = field(default_factory=dict)
    """The next piece and the end of each lease that is held."""
    neighbours: dict[PeerId, Peer] = field(default_factory=dict)
    news: int = 0
    done_at: float | None = None
    gone: bool = False

    def __post_init__(self) -> None:
        self.book = BlobBook(self.layout, self.layout.all)
        self.up, self.down = _Link(self.rate), _Link(self.rate)
        self.picker = Picker(self.rng)
        self.picker.books[_DIGEST] = self.book
        self.requests = Requests()
        self.uploads = UploadSlots()


@dataclass(frozen=True)
class Outcome:
    """`makespan` in seconds until the last peer that stayed has the blob, `bound` that of any exchange."""

    makespan: float
    bound: float
    egress: float
    messages: int
    """That the supernode received and sent."""

    @property
    def ratio(self) -> float:
        return self.makespan / self.bound


class Simulation:
    """One blob of `size` bytes to peers with these link rates (bytes/s), from an origin of `origin_rate`."""

    def __init__(self, size: int, rates: list[float], origin_rate: float, seed: int, leaving: float = 0.0) -> None:
        """`leaving`: the share of peers that vanish in mid-pull."""
        self._rng = random.Random(seed)
        self._size, self._origin, self._leaving = size, _Link(origin_rate), leaving
        self._layout = PieceLayout.of(size)
        self._tracker = Tracker(random.Random(seed), silence=1e9)
        self._peers = {
            PeerId(f"{place:032x}"): Peer(
                PeerId(f"{place:032x}"), rate, self._layout, random.Random(self._rng.random())
            )
            for place, rate in enumerate(rates)
        }
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._now = 0.0
        self._missing = len(rates)
        self._fetched = 0
        self._messages = 0

    def run(self, limit: float = 100.0) -> Outcome:
        """Until all have the blob; raises `RuntimeError` after `limit` times the bound."""
        for peer in self._peers.values():
            self._tracker.join(peer.id, Contact("host", 1, ""), 0.0)
            self._at(0.0, partial(self._tell_tracker, peer, self._open_message()))
        self._at(_TICK, self._tick)
        bound = self._bound()
        for peer in self._rng.sample(list(self._peers.values()), round(self._leaving * len(self._peers))):
            self._at(bound * self._rng.random(), partial(self._leave, peer))
        while self._missing:
            if not self._events or self._now > limit * bound:
                raise RuntimeError(f"{self._missing} peers do not get the blob")
            self._now, _, happen = heapq.heappop(self._events)
            happen()
        makespan = max(peer.done_at or 0.0 for peer in self._peers.values() if not peer.gone)
        return Outcome(makespan, bound, self._fetched / self._size, self._messages)

    def _bound(self) -> float:
        rates = [peer.rate for peer in self._peers.values()]
        together = len(rates) * self._size / (self._origin.rate + sum(rates))
        return max(self._size / self._origin.rate, self._size / min(rates), together)

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happen))

    def _later(self, happen: Callable[[], None], seconds: float = LATENCY) -> None:
        self._at(self._now + seconds, happen)

    # --- the supernode --------------------------------------------------------------------------------------------

    def _open_message(self) -> protocol.Open:
        return protocol.Open([protocol.Wanted(_DIGEST, self._size, "docker.io", "library/simulated")])

    def _tell_tracker(self, peer: Peer, message: FromPeer) -> None:
        if not peer.gone:
            self._messages += 1
            self._tracker.receive(peer.id, message, self._now)
            self._flush()

    def _tick(self) -> None:
        self._tracker.tick(self._now)
        self._flush()
        if self._missing:
            self._later(self._tick, _TICK)

    def _flush(self) -> None:
        for peers, message in self._tracker.take():
            self._messages += len(peers)
            for each in peers:
                self._later(partial(self._hear, self._peers[each], message))

    def _leave(self, peer: Peer) -> None:
        if peer.done_at is None:
            self._missing -= 1
        peer.gone = True
        self._tracker.leave(peer.id, self._now)
        self._flush()
        for other in list(peer.neighbours.values()):
            other.neighbours.pop(peer.id, None)
            other.book.parted(peer.id)
            for _, piece in other.requests.drop(peer.id):
                other.book.pending &= ~(1 << piece)
            for upload in other.uploads.drop(peer.id):
                self._serve(other, upload)
            self._schedule(other)

    def _hear(self, peer: Peer, message: FromSupernode) -> None:
        if peer.gone:
            return
        match message:
            case protocol.Handout():
                for other in message.neighbours:
                    self._connect(peer, self._peers[PeerId(other.peer)])
            case protocol.PieceDigests():
                peer.book.known |= from_bitfield(message.pieces, self._layout.count)
            case protocol.Grant():
                peer.leases[message.lease] = [message.first, message.first + message.count]
                peer.book.pending |= ((1 << message.count) - 1) << message.first & peer.book.missing
                self._fetch(peer, message.lease)
            case protocol.Trim():
                lease = peer.leases.get(message.lease)
                if lease is not None and message.end < lease[1]:
                    end = max(message.end, lease[0] + 1)
                    peer.book.pending &= ~(((1 << max(0, lease[1] - end)) - 1) << end)
                    lease[1] = end
            case protocol.Revoke():
                lease = peer.leases.pop(message.lease, None)
                if lease is not None:
                    peer.book.pending &= ~(((1 << (lease[1] - lease[0])) - 1) << lease[0])
        self._schedule(peer)

    def _connect(self, one: Peer, two: Peer) -> None:
        if two.gone or two.id in one.neighbours:
            return
        for peer, other in ((one, two), (two, one)):
            peer.neighbours[other.id] = other
            peer.book.held(other.id, other.have)
            self._schedule(peer)

    def _fetch(self, peer: Peer, lease_id: int) -> None:
        """The next piece of a lease, from the origin."""
        lease = peer.leases.get(lease_id)
        if lease is None or peer.gone:
            return
        if lease[0] >= lease[1]:
            del peer.leases[lease_id]
            self._schedule(peer)
            return
        size = self._layout.length(lease[0])

        def fetched() -> None:
            self._fetched += size
            if peer.leases.get(lease_id) is not lease:
                return
            piece = lease[0]
            lease[0] += 1
            self._gain(peer, piece)
            message = protocol.Progress(lease_id, piece, bytes(PIECE_DIGEST_SIZE))
            self._later(lambda: self._tell_tracker(peer, message))
            self._fetch(peer, lease_id)

        self._flow(self._origin, peer.down, size, fetched)

    def _flow(self, up: _Link, down: _Link, size: int, ended: Callable[[], None]) -> None:
        """Move `size` bytes from one link to another."""
        rest, rate = size, 0.0
        up.flows += 1
        down.flows += 1

        def go_on() -> None:
            nonlocal rest, rate
            up.used -= rate
            down.used -= rate
            if not rest:
                up.flows -= 1
                down.flows -= 1
                ended()
                return
            rate = min(up.share, down.share)
            up.used += rate
            down.used += rate
            part = min(rest, _CHUNK)
            rest -= part
            self._later(go_on, part / rate)

        go_on()

    # --- the exchange ---------------------------------------------------------------------------------------------

    def _gain(self, peer: Peer, piece: int) -> None:
        bit = 1 << piece
        if peer.have & bit:
            return
        peer.have |= bit
        peer.book.missing &= ~bit
        peer.book.pending &= ~bit
        if not peer.news:
            self._later(lambda: self._tell_news(peer), _HAVE_DELAY)
        peer.news |= bit
        if peer.have == self._layout.all:
            peer.done_at = self._now
            if not peer.gone:
                self._missing -= 1
            self._later(lambda: self._tell_tracker(peer, protocol.Announce([protocol.Held(_DIGEST, self._size)])))

    def _tell_news(self, peer: Peer) -> None:
        news, peer.news = peer.news, 0
        for other in peer.neighbours.values():
            lacking = news & ~peer.book.holders.get(other.id, 0)
            if lacking and not other.gone:
                other.book.gained(peer.id, lacking)
                if lacking & other.book.wanted:
                    self._schedule(other)

    def _schedule(self, peer: Peer) -> None:
        requests, book = peer.requests, peer.book
        if peer.gone or not book.missing:
            return
        room = requests.depth - len(peer.leases) * max(1, requests.depth // UPLOAD_SLOTS) - requests.count
        if room <= 0 or not book.wanted:
            return
        most = requests.most_at_one(len(book.holders))
        idle = [
            other for other in peer.neighbours if not requests.rests(other, self._now) and requests.load(other) < most
        ]
        for _ in range(room):
            choice = peer.picker.choose(idle, requests.cost)
            if choice is None and not peer.leases:
                choice = peer.picker.choose_again(idle, requests.cost, requests.asked)
            if choice is None:
                return
            self._ask(peer, choice)
            if requests.load(choice.peer) >= most:
                idle.remove(choice.peer)

    def _ask(self, peer: Peer, choice: Choice) -> None:
        peer.book.pending |= 1 << choice.piece
        peer.requests.sent(choice.peer, _DIGEST, choice.piece, self._now)
        holder = self._peers[choice.peer]
        self._later(lambda: self._asked(holder, Upload(peer.id, _DIGEST, choice.piece)))

    def _asked(self, holder: Peer, upload: Upload) -> None:
        if holder.gone or self._peers[upload.peer].gone:
            return
        answer = holder.uploads.request(upload)
        if answer:
            self._serve(holder, upload)
        elif answer is False:
            self._later(lambda: self._refused(self._peers[upload.peer], holder, upload.piece))

    def _refused(self, peer: Peer, holder: Peer, piece: int) -> None:
        if peer.requests.forget(holder.id, _DIGEST, piece):
            peer.book.pending &= ~(1 << piece)
        peer.requests.busy(holder.id, self._now)
        self._schedule(peer)

    def _serve(self, holder: Peer, upload: Upload) -> None:
        peer = self._peers[upload.peer]
        size = self._layout.length(upload.piece)

        def sent() -> None:
            following, invited = holder.uploads.finished(upload)
            if following is not None:
                self._serve(holder, following)
            if invited is not None:
                self._later(lambda: self._ready(self._peers[invited], holder))
            if not holder.gone:
                self._later(lambda: self._arrived(peer, holder, upload.piece, size))

        self._flow(holder.up, peer.down, size, sent)

    def _arrived(self, peer: Peer, holder: Peer, piece: int, size: int) -> None:
        if peer.gone:
            return
        peer.requests.began(holder.id, _DIGEST, piece, self._now)
        for other in peer.requests.done(holder.id, _DIGEST, piece, size, self._now):
            self._peers[other].uploads.cancel(Upload(peer.id, _DIGEST, piece))
        self._gain(peer, piece)
        self._schedule(peer)

    def _ready(self, peer: Peer, holder: Peer) -> None:
        peer.requests.ready(holder.id)
        self._schedule(peer)
