"""A discrete-event simulation of a swarm that runs the real decisions: tracker, leases, handouts, picker, slots.

Only the network is made up: each direction of a link is a queue that drains at the link's rate, as the measured network
has them (`bench/netns.py`). A transfer puts its next part into the sender's queue when the one before has left it, so
that transfers take turns, and waits while the receiver's queue is full. Messages wait in the same queues. Peers that
have the blob stay.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from peer.picker import BlobBook, Choice, Picker
from peer.requests import Requests
from peer.uploads import UPLOAD_SLOTS, Upload, UploadSlots
from shoal.digest import Digest
from shoal.pieces import PIECE_DIGEST_SIZE, PieceLayout, from_bitfield, run_of, to_bitfield
from supernode import protocol
from supernode.handout import Contact
from supernode.protocol import FromPeer, FromSupernode, PeerId
from supernode.tracker import Tracker

LATENCY = 0.005
"""Seconds of each message besides the queues that it waits in."""
QUEUE = 0.05
"""Seconds of a link's transmission that wait before it at most."""
_TICK = 0.02
_ANNOUNCE_SECONDS = 1.0
_PARTS = 4
"""Of a piece, that are queued one after the other. 8 and 16 move the makespan of 16 peers by less than 2 %."""
_DIGEST = Digest.of(b"simulated")


@dataclass(slots=True)
class _Link:
    """One direction of a link, in bytes/s, and when the queue before it will be empty."""

    rate: float
    empty_at: float = 0.0

    def wait(self, now: float) -> float:
        """Seconds that what comes now spends in the queue."""
        return max(0.0, self.empty_at - now)

    def put(self, size: float, now: float) -> float:
        """Queue so many bytes; returns in how many seconds they will have passed."""
        self.empty_at = max(self.empty_at, now) + size / self.rate
        return self.empty_at - now


@dataclass(eq=False, slots=True)
class _Flow:
    """A transfer of `rest` parts of `size` bytes over two links.

    `left` is called when the last one has left the sender's socket for the queue, `ended` when it is there.
    """

    up: _Link
    down: _Link
    size: float
    rest: int
    left: Callable[[], None]
    ended: Callable[[], None]


@dataclass(eq=False, slots=True)
class Peer:
    """A simulated peer with the real books. Rates in bytes/s."""

    id: PeerId
    rate: float
    layout: PieceLayout
    rng: random.Random
    up: _Link = field(init=False)
    down: _Link = field(init=False)
    book: BlobBook = field(init=False)
    picker: Picker = field(init=False)
    requests: Requests = field(default_factory=Requests)
    uploads: UploadSlots = field(init=False)
    have: int = 0
    leases: dict[int, list[int]] = field(default_factory=dict)
    """The next piece and the end of each lease that is held."""
    neighbours: dict[PeerId, Peer] = field(default_factory=dict)
    news: int = 0
    told: int = 0
    """What the supernode has been told of."""
    done_at: float | None = None
    gone: bool = False

    def __post_init__(self) -> None:
        self.book = BlobBook(self.layout, self.layout.all)
        self.up, self.down = _Link(self.rate), _Link(self.rate)
        self.picker = Picker(self.rng)
        self.uploads = UploadSlots(self.rng)
        self.picker.books[_DIGEST] = self.book


@dataclass(frozen=True)
class Outcome:
    """`makespan` in seconds until the last peer that stayed has the blob, `bound` that of any exchange."""

    makespan: float
    bound: float
    egress: float
    messages: int
    """That the supernode received and sent."""
    median: float
    """Seconds until half of the peers that stayed have the blob."""

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
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._now = 0.0
        self._missing = len(rates)
        self._fetched = 0
        self._messages = 0

    def run(self, limit: float = 100.0) -> Outcome:
        """Until all have the blob; raises `RuntimeError` after `limit` times the bound."""
        gc.disable()  # millions of books and events live long, and the collector would walk through them all the time
        try:
            return self._run(limit)
        finally:
            gc.enable()

    def _run(self, limit: float) -> Outcome:
        for peer in self._peers.values():
            self._tracker.join(peer.id, Contact("host", 1, ""), 0.0)
            self._later(0.0, self._tell_tracker, peer, self._open_message())
            self._later(_ANNOUNCE_SECONDS * (1 + self._rng.random()), self._announce, peer)
        self._later(_TICK, self._tick)
        bound = self._bound()
        for peer in self._rng.sample(list(self._peers.values()), round(self._leaving * len(self._peers))):
            self._later(bound * self._rng.random(), self._leave, peer)
        while self._missing:
            if not self._events or self._now > limit * bound:
                raise RuntimeError(f"{self._missing} peers do not get the blob")
            self._now, _, happen, arguments = heapq.heappop(self._events)
            happen(*arguments)
        ends = sorted(peer.done_at or 0.0 for peer in self._peers.values() if not peer.gone)
        return Outcome(ends[-1], bound, self._fetched / self._size, self._messages, ends[len(ends) // 2])

    def _bound(self) -> float:
        rates = [peer.rate for peer in self._peers.values()]
        together = len(rates) * self._size / (self._origin.rate + sum(rates))
        return max(self._size / self._origin.rate, self._size / min(rates), together)

    def _later(self, seconds: float, happen: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._order), happen, arguments))

    # --- the supernode --------------------------------------------------------------------------------------------

    def _open_message(self) -> protocol.Open:
        return protocol.Open([protocol.Wanted(_DIGEST, self._size, "docker.io", "library/simulated")])

    def _tell_tracker(self, peer: Peer, message: FromPeer) -> None:
        if not peer.gone:
            self._messages += 1
            self._tracker.receive(peer.id, message, self._now)
            self._flush()

    def _announce(self, peer: Peer) -> None:
        """What a peer tells each second, as long as it gets pieces."""
        if peer.gone or not peer.book.missing:
            return
        if peer.have != peer.told:
            peer.told = peer.have
            held = protocol.Held(_DIGEST, self._size, to_bitfield(peer.have, self._layout.count))
            self._send(peer, None, self._tell_tracker, peer, protocol.Announce([held]))
        self._later(_ANNOUNCE_SECONDS, self._announce, peer)

    def _tick(self) -> None:
        self._tracker.tick(self._now)
        self._flush()
        if self._missing:
            self._later(_TICK, self._tick)

    def _flush(self) -> None:
        for peers, message in self._tracker.take():
            self._messages += len(peers)
            if len(peers) == 1:
                self._send(None, self._peers[peers[0]], self._hear, [self._peers[peers[0]]], message)
                continue
            for seconds, group in self._by_wait(self._peers[peer] for peer in peers):
                self._later(seconds, self._hear, group, message)

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
            started, invited = other.uploads.drop(peer.id)
            for upload in started:
                self._serve(other, upload)
            for asker in invited:
                self._send(other, self._peers[asker], self._ready, self._peers[asker], other)
            self._schedule(other)

    def _hear(self, peers: Sequence[Peer], message: FromSupernode) -> None:
        """A message of the supernode reaches those to whom it went."""
        known = from_bitfield(message.pieces, self._layout.count) if isinstance(message, protocol.PieceDigests) else 0
        for peer in peers:
            if peer.gone:
                continue
            peer.book.known |= known
            match message:
                case protocol.Handout():
                    for other in message.neighbours:
                        self._connect(peer, self._peers[PeerId(other.peer)])
                case protocol.Grant():
                    peer.leases[message.lease] = [message.first, message.first + message.count]
                    peer.book.pending |= run_of(message.first, message.count) & peer.book.missing
                    self._send(peer, None, self._fetch, peer, message.lease)
                case protocol.Trim():
                    self._give_up(peer, message.lease, message.end)
                case protocol.Revoke():
                    self._give_up(peer, message.lease, 0)
                    peer.leases.pop(message.lease, None)
            self._schedule(peer)

    @staticmethod
    def _give_up(peer: Peer, lease_id: int, end: int) -> None:
        """The pieces of a lease from `end` on are no more its holder's to fetch."""
        lease = peer.leases.get(lease_id)
        if lease is not None and end < lease[1]:
            end = max(end, lease[0] + 1 if end else lease[0])
            peer.book.pending &= ~run_of(end, max(0, lease[1] - end))
            lease[1] = end

    def _connect(self, one: Peer, two: Peer) -> None:
        if two.gone or two.id in one.neighbours:
            return
        for peer, other in ((one, two), (two, one)):
            peer.neighbours[other.id] = other
            peer.book.held(other.id, other.have)
            self._schedule(peer)

    # --- the network ----------------------------------------------------------------------------------------------

    def _send(self, sender: Peer | None, receiver: Peer | None, happen: Callable[..., None], *arguments: Any) -> None:
        """A message; None stands for the supernode or the origin, whose queues are short."""
        seconds = LATENCY
        if sender is not None:
            seconds += sender.up.wait(self._now)
        if receiver is not None:
            seconds += receiver.down.wait(self._now)
        self._later(seconds, happen, *arguments)

    def _by_wait(self, receivers: Iterable[Peer]) -> Iterable[tuple[float, list[Peer]]]:
        """Those to whom a message goes, in groups, and in how many seconds it is there: the queues' part is rounded up
        to a quarter of the longest one. The order in a group is random."""
        groups: dict[int, list[Peer]] = {}
        shuffled = list(receivers)
        self._rng.shuffle(shuffled)
        now = self._now
        for peer in shuffled:
            wait = peer.down.empty_at - now
            groups.setdefault(math.ceil(4 * wait / QUEUE) if wait > 0 else 0, []).append(peer)
        return ((LATENCY + quarters * QUEUE / 4, group) for quarters, group in groups.items())

    def _flow(self, up: _Link, down: _Link, size: int, left: Callable[[], None], ended: Callable[[], None]) -> None:
        """Move `size` bytes from one link to another."""
        self._queue_part(_Flow(up, down, size / _PARTS, _PARTS, left, ended))

    def _queue_part(self, flow: _Flow) -> None:
        flow.rest -= 1
        self._later(flow.up.put(flow.size, self._now), self._pass_part, flow)
        if not flow.rest:
            flow.left()

    def _pass_part(self, flow: _Flow) -> None:
        """A part goes from the sender's link to the queue before the receiver's."""
        seconds = flow.down.put(flow.size, self._now) + LATENCY
        if not flow.rest:
            self._later(seconds, flow.ended)
        elif seconds > QUEUE:
            self._later(seconds - QUEUE, self._queue_part, flow)
        else:
            self._queue_part(flow)

    # --- from the origin ------------------------------------------------------------------------------------------

    def _fetch(self, peer: Peer, lease_id: int) -> None:
        """The next piece of a lease begins to leave the origin."""
        lease = peer.leases.get(lease_id)
        if lease is None or peer.gone:
            return
        if lease[0] >= lease[1]:
            del peer.leases[lease_id]
            self._schedule(peer)
            return
        piece = lease[0]
        size = self._layout.length(piece)
        left = partial(self._left_origin, peer, lease_id, size)
        self._flow(self._origin, peer.down, size, left, partial(self._fetched_piece, peer, lease_id, piece))

    def _left_origin(self, peer: Peer, lease_id: int, size: int) -> None:
        self._fetched += size
        lease = peer.leases.get(lease_id)
        if lease is None:
            return
        lease[0] += 1
        self._fetch(peer, lease_id)

    def _fetched_piece(self, peer: Peer, lease_id: int, piece: int) -> None:
        if peer.gone:
            return
        self._gain(peer, piece)
        self._send_news(peer)
        self._send(peer, None, self._tell_tracker, peer, protocol.Progress(lease_id, piece, bytes(PIECE_DIGEST_SIZE)))

    # --- the exchange ---------------------------------------------------------------------------------------------

    def _gain(self, peer: Peer, piece: int) -> None:
        bit = 1 << piece
        if peer.have & bit:
            return
        peer.have |= bit
        peer.book.missing &= ~bit
        peer.book.pending &= ~bit
        if not peer.news:
            self._later(peer.book.news_delay(peer.requests.depth), self._send_news, peer)
        peer.news |= bit
        if not peer.book.missing:
            peer.done_at = self._now
            self._missing -= 1
            self._send_news(peer)
            self._send(peer, None, self._tell_tracker, peer, protocol.Announce([protocol.Held(_DIGEST, self._size)]))

    def _send_news(self, peer: Peer) -> None:
        if peer.news:
            queued = peer.up.wait(self._now)
            for seconds, group in self._by_wait(peer.neighbours.values()):
                self._later(queued + seconds, self._tell_news, peer, group, peer.news)
            peer.news = 0

    def _tell_news(self, peer: Peer, others: list[Peer], news: int) -> None:
        if peer.gone:
            return
        holders, name = peer.book.holders, peer.id
        for other in others:
            lacking = news & ~holders.get(other.id, 0)
            if lacking:
                book = other.book
                book.gained(name, lacking)
                if lacking & book.wanted:
                    self._schedule(other)

    def _schedule(self, peer: Peer) -> None:
        requests, book = peer.requests, peer.book
        requests.sources = len(book.holders)
        room = requests.depth - len(peer.leases) * max(1, requests.depth // UPLOAD_SLOTS) - requests.count
        if room <= 0 or peer.gone or not book.missing:
            return
        wanted = book.wanted
        if wanted and not wanted & book.available:
            return  # nobody has any of it: spare the look at each neighbour
        useful = wanted or book.missing
        now, load, most, holders = self._now, requests.load, requests.most_at_one, book.holders
        idle = [other for other in requests.takers(holders, now) if holders[other] & useful]
        late = partial(requests.late, now=now)
        for _ in range(room):
            choice = peer.picker.choose(idle, requests.cost)
            if choice is None and not peer.leases:
                choice = peer.picker.choose_again(idle, requests.cost, late)
            if choice is None:
                return
            self._ask(peer, choice)
            if load(choice.peer) >= most:
                idle.remove(choice.peer)

    def _ask(self, peer: Peer, choice: Choice) -> None:
        peer.book.pending |= 1 << choice.piece
        peer.requests.sent(choice.peer, _DIGEST, choice.piece, self._now)
        holder = self._peers[choice.peer]
        self._send(peer, holder, self._asked, holder, Upload(peer.id, _DIGEST, choice.piece))

    def _asked(self, holder: Peer, upload: Upload) -> None:
        peer = self._peers[upload.peer]
        if holder.gone or peer.gone:
            return
        answer = holder.uploads.request(upload)
        if answer:
            self._serve(holder, upload)
        elif answer is False:
            self._send(holder, peer, self._refused, peer, holder, upload.piece)

    def _refused(self, peer: Peer, holder: Peer, piece: int) -> None:
        if peer.requests.forget(holder.id, _DIGEST, piece):
            peer.book.pending &= ~(1 << piece)
        peer.requests.busy(holder.id, self._now)
        self._schedule(peer)

    def _serve(self, holder: Peer, upload: Upload) -> None:
        peer = self._peers[upload.peer]
        begins = self._now + holder.up.wait(self._now) + peer.down.wait(self._now)
        peer.requests.began(holder.id, _DIGEST, upload.piece, begins)
        self._flow(
            holder.up,
            peer.down,
            self._layout.length(upload.piece),
            partial(self._sent, holder, upload),
            partial(self._passed, holder, upload),
        )

    def _sent(self, holder: Peer, upload: Upload) -> None:
        following, invited = holder.uploads.finished(upload)
        if holder.gone:
            return
        if following is not None:
            self._serve(holder, following)
        if invited is not None:
            self._send(holder, self._peers[invited], self._ready, self._peers[invited], holder)

    def _passed(self, holder: Peer, upload: Upload) -> None:
        if not holder.gone:
            self._arrived(self._peers[upload.peer], holder, upload.piece)

    def _arrived(self, peer: Peer, holder: Peer, piece: int) -> None:
        if peer.gone:
            return
        size = self._layout.length(piece)
        for other in peer.requests.done(holder.id, _DIGEST, piece, size, self._now):
            asked = self._peers[other]
            self._send(peer, asked, asked.uploads.cancel, Upload(peer.id, _DIGEST, piece))
        self._gain(peer, piece)
        self._schedule(peer)

    def _ready(self, peer: Peer, holder: Peer) -> None:
        peer.requests.ready(holder.id)
        self._schedule(peer)
