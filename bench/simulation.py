"""A discrete-event simulation of a swarm: the very machines of peers and supernode, with a made-up network.

Each direction of a link is a queue that drains at the link's rate, as the measured network has them (`bench/netns.py`).
A transfer puts its next part into the sender's queue when the one before has left it, so that transfers take turns, and
waits while the receiver's queue is full. Messages wait in the same queues. All that is decided, the machines decide.
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

from peer import wire
from peer.commands import Command, Dial, Fail, Fetch, HangUp, Land, Send, Serve, StopFetch, Tell
from peer.machine import Machine, MachineSettings
from peer.piecemap import StreamId
from peer.uploads import Upload
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.pieces import PIECE_DIGEST_SIZE, PieceLayout, leading_run
from shoal.reference import Location
from supernode import protocol
from supernode.handout import Contact
from supernode.protocol import FromPeer, FromSupernode, PeerId
from supernode.tracker import Tracker

LATENCY = 0.005
"""Seconds of each message besides the queues that it waits in."""
QUEUE = 0.05
"""Seconds of a link's transmission that wait before it at most."""
TRACKER_TICK = 0.02
PEER_TICK = 0.25
_ANNOUNCE_SECONDS = 5.0
_PARTS = 4
"""Of a piece, that are queued one after the other. 8 and 16 move the makespan of 16 peers by less than 2 %."""
_READ_AT_ONCE = 3
"""Layers of an image, as docker and containerd have it."""
AT = Location.parse("docker.io", "library/simulated")
_DIGEST = bytes(PIECE_DIGEST_SIZE)
_NOTHING = bytearray()


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


class _Library:
    """No peer begins with anything."""

    def __init__(self) -> None:
        self.blobs: set[BlobKey] = set()

    def holds(self, blob: BlobKey) -> bool:
        return blob in self.blobs

    def holdings(self) -> Iterable[BlobKey]:
        return list(self.blobs)


@dataclass(eq=False, slots=True)
class _Stream:
    """A transfer from the origin, which brings one piece after the other. `ended` makes all of it void."""

    next: int
    end: int
    ended: bool = False


@dataclass(eq=False, slots=True)
class Peer:
    """A simulated peer: the real machine behind a link. Rates in bytes/s."""

    id: PeerId
    rate: float
    machine: Machine
    library: _Library
    up: _Link = field(init=False)
    down: _Link = field(init=False)
    streams: dict[StreamId, _Stream] = field(default_factory=dict)
    neighbours: set[PeerId] = field(default_factory=set)
    reading: dict[BlobKey, int] = field(default_factory=dict)
    """The piece at which its client stands in each layer that it reads now."""
    unread: list[BlobKey] = field(default_factory=list)
    has_joined: bool = True
    """Whether the supernode knows it."""
    woken_at: float = math.inf
    done_at: float | None = None
    gone: bool = False
    failed: bool = False

    def __post_init__(self) -> None:
        self.up, self.down = _Link(self.rate), _Link(self.rate)


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
    """An image of `size` bytes to peers with these link rates (bytes/s), from an origin of `origin_rate`."""

    def __init__(
        self, size: int, rates: list[float], origin_rate: float, seed: int, leaving: float = 0.0, layers: int = 1
    ) -> None:
        """`leaving`: the share of peers that vanish in mid-pull; `layers`: the number of blobs, all of one size."""
        self._rng = random.Random(seed)
        self._size, self._origin, self._leaving = size, _Link(origin_rate), leaving
        self._blobs = [BlobKey(Digest.of(b"%d" % layer), size // layers) for layer in range(layers)]
        self._layout = PieceLayout.of(size // layers)
        self._tracker = Tracker(random.Random(seed), silence=1e9)
        self._peers = {peer.id: peer for peer in (self._peer(place, rate) for place, rate in enumerate(rates))}
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._now = 0.0
        self._missing = len(rates)
        self._fetched = 0
        self._messages = 0
        self._supernode_up = True

    def _peer(self, place: int, rate: float) -> Peer:
        library = _Library()
        machine = Machine(MachineSettings(), library, random.Random(self._rng.random()), 0.0)
        return Peer(PeerId(f"{place:032x}"), rate, machine, library)

    def run(self, limit: float = 100.0) -> Outcome:
        """Until all have the blob; raises `RuntimeError` after `limit` times the bound."""
        gc.disable()  # millions of books and events live long, and the collector would walk through them all the time
        try:
            return self._run(limit)
        finally:
            gc.enable()

    def later(self, seconds: float, happen: Callable[..., None], *arguments: Any) -> None:
        """Something happens in so many seconds of simulated time."""
        heapq.heappush(self._events, (self._now + seconds, next(self._order), happen, arguments))

    def step(self) -> None:
        """The next thing happens."""
        self._now, _, happen, arguments = heapq.heappop(self._events)
        happen(*arguments)

    @property
    def now(self) -> float:
        """Seconds of simulated time."""
        return self._now

    def _run(self, limit: float) -> Outcome:
        for peer in self._peers.values():
            self._join_tracker(peer)
            peer.machine.open([(blob, 0, {}) for blob in self._blobs], AT, 0.0)
            peer.unread = list(self._blobs)
            self._read_on(peer)
            self._act(peer)
            self.later(PEER_TICK * (1 + self._rng.random()), self._peer_tick, peer)
        self.later(TRACKER_TICK, self._tracker_tick)
        bound = self._bound()
        for peer in self._rng.sample(list(self._peers.values()), round(self._leaving * len(self._peers))):
            self.later(bound * self._rng.random(), self.leave, peer)
        while self._missing:
            if not self._events or self._now > limit * bound:
                raise RuntimeError(f"{self._missing} peers do not get the blob")
            self.step()
        ends = sorted(peer.done_at or 0.0 for peer in self._peers.values() if not peer.gone)
        return Outcome(ends[-1], bound, self._fetched / self._size, self._messages, ends[len(ends) // 2])

    def _bound(self) -> float:
        rates = [peer.rate for peer in self._peers.values()]
        together = len(rates) * self._size / (self._origin.rate + sum(rates))
        return max(self._size / self._origin.rate, self._size / min(rates), together)

    # --- what machines want done ------------------------------------------------------------------------------------

    def _act(self, peer: Peer) -> None:
        """Carry out what a peer's machine has decided."""
        if peer.gone:
            return
        for command in peer.machine.take(self._now):
            self._do(peer, command)
        wake_at = peer.machine.wake_at
        if wake_at < peer.woken_at:
            peer.woken_at = wake_at
            self.later(max(0.0, wake_at - self._now), self._wake, peer, wake_at)

    def _wake(self, peer: Peer, due: float) -> None:
        if peer.woken_at == due:
            peer.woken_at = math.inf
            peer.machine.wake(self._now)
            self._act(peer)

    def _do(self, peer: Peer, command: Command) -> None:
        match command:
            case Send():
                self._send(peer, command)
            case Land():
                peer.machine.landed(command.blob, command.piece, _DIGEST, command.source, self._now)
                self._ended(peer, command.blob)
                self._act(peer)
            case Serve():
                self._serve(peer, command.upload)
            case Tell():
                self._message(peer, None, self._tell_tracker, peer, command.message)
            case Fetch():
                stream = peer.streams[command.stream] = _Stream(command.first, command.end)
                self._message(peer, None, self._fetch, peer, command.stream, stream)
            case StopFetch():
                peer.streams.pop(command.stream, _Stream(0, 0)).ended = True
            case Dial():
                self._message(peer, None, self._connect, peer, self._peers[command.peer])
            case HangUp():
                self._part(peer, self._peers[command.peer])
            case Fail():
                raise RuntimeError(f"{peer.id} gives up: {command.error}")

    def _ended(self, peer: Peer, blob: BlobKey) -> None:
        """A piece has landed: its client reads on, and the blob may be complete."""
        pieces = peer.machine.sought[blob].pieces
        if blob in peer.reading:
            peer.reading[blob] += leading_run(pieces.there, peer.reading[blob])
            if peer.reading[blob] < self._layout.count:
                peer.machine.reading(blob, 1, peer.reading[blob], self._now)
        if pieces.missing:
            return
        peer.library.blobs.add(blob)
        peer.machine.verified(blob, self._now)
        peer.reading.pop(blob, None)
        self._read_on(peer)
        if not peer.machine.sought:
            peer.done_at = self._now
            self._missing -= 1

    def _read_on(self, peer: Peer) -> None:
        """The client asks for the next layers."""
        while peer.unread and len(peer.reading) < _READ_AT_ONCE:
            blob = peer.unread.pop(0)
            sought = peer.machine.sought.get(blob)
            if sought is not None:
                peer.reading[blob] = leading_run(sought.pieces.there, 0)
                peer.machine.demand(blob, AT, self._now)
                peer.machine.reading(blob, 1, peer.reading[blob], self._now)

    def _peer_tick(self, peer: Peer) -> None:
        if not peer.gone and peer.done_at is None:
            peer.machine.tick(self._now)
            self._act(peer)
            self.later(PEER_TICK, self._peer_tick, peer)

    def leave(self, peer: Peer) -> None:
        """A peer vanishes."""
        if peer.gone:
            return
        if peer.done_at is None:
            self._missing -= 1
        peer.gone = True
        self._tracker.leave(peer.id, self._now)
        self._flush()
        for other in list(peer.neighbours):
            self._part(peer, self._peers[other])

    # --- the supernode ----------------------------------------------------------------------------------------------

    def _join_tracker(self, peer: Peer) -> None:
        self._tracker.join(peer.id, Contact("host", 1, ""), self._now, confirms=True)
        peer.machine.joined(_ANNOUNCE_SECONDS, self._now)

    def _tell_tracker(self, peer: Peer, message: FromPeer) -> None:
        if peer.has_joined and not peer.gone:
            self._messages += 1
            self._tracker.receive(peer.id, message, self._now)
            self._flush()

    def _tracker_tick(self) -> None:
        if self._supernode_up:
            self._tracker.tick(self._now)
            self._flush()
        if self._missing:
            self.later(TRACKER_TICK, self._tracker_tick)

    def _flush(self) -> None:
        for peers, message in self._tracker.take():
            self._messages += len(peers)
            if len(peers) == 1:
                self._message(None, self._peers[peers[0]], self._hear, [self._peers[peers[0]]], message)
                continue
            for seconds, group in self._by_wait(self._peers[peer] for peer in peers):
                self.later(seconds, self._hear, group, message)

    def _hear(self, peers: Sequence[Peer], message: FromSupernode) -> None:
        """A message of the supernode reaches those to whom it went."""
        for peer in peers:
            if not peer.gone and not isinstance(message, protocol.Refused):
                peer.machine.heard(message, self._now)
                self._act(peer)

    def supernode_dies(self) -> None:
        """The supernode is gone with all that it knew."""
        self._supernode_up = False
        for peer in self._peers.values():
            if peer.has_joined and not peer.gone:
                peer.has_joined = False
                peer.machine.lost(self._now)
                self._act(peer)

    def supernode_returns(self) -> None:
        """Another one takes its place; peers come to it one after the other within a second."""
        self._tracker = Tracker(random.Random(self._rng.random()), silence=1e9)
        self._supernode_up = True
        for peer in self._peers.values():
            if not peer.gone:
                self.later(self._rng.random(), self._rejoin, peer, self._tracker)

    def _rejoin(self, peer: Peer, tracker: Tracker) -> None:
        if peer.gone or peer.has_joined or tracker is not self._tracker or not self._supernode_up:
            return
        peer.has_joined = True
        self._tracker.join(peer.id, Contact("host", 1, ""), self._now, returning=True, confirms=True)
        peer.machine.joined(_ANNOUNCE_SECONDS, self._now)
        self._act(peer)

    # --- the network ----------------------------------------------------------------------------------------------

    def _message(
        self, sender: Peer | None, receiver: Peer | None, happen: Callable[..., None], *arguments: Any
    ) -> None:
        """A message; None stands for the supernode or the origin, whose queues are short."""
        seconds = LATENCY
        if sender is not None:
            seconds += sender.up.wait(self._now)
        if receiver is not None:
            seconds += receiver.down.wait(self._now)
        self.later(seconds, happen, *arguments)

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
        self.later(flow.up.put(flow.size, self._now), self._pass_part, flow)
        if not flow.rest:
            flow.left()

    def _pass_part(self, flow: _Flow) -> None:
        """A part goes from the sender's link to the queue before the receiver's."""
        seconds = flow.down.put(flow.size, self._now) + LATENCY
        if not flow.rest:
            self.later(seconds, flow.ended)
        elif seconds > QUEUE:
            self.later(seconds - QUEUE, self._queue_part, flow)
        else:
            self._queue_part(flow)

    # --- between peers ----------------------------------------------------------------------------------------------

    def _connect(self, one: Peer, two: Peer) -> None:
        if one.gone or one.id in two.neighbours:
            return
        if two.gone:
            one.machine.unreachable(two.id, self._now)
            return
        for peer, other in ((one, two), (two, one)):
            peer.neighbours.add(other.id)
            peer.machine.arrived(other.id, self._now)
            self._act(peer)

    def _part(self, one: Peer, two: Peer) -> None:
        for peer, other in ((one, two), (two, one)):
            if other.id in peer.neighbours:
                peer.neighbours.discard(other.id)
                peer.machine.gone(other.id, self._now)
                self._act(peer)

    def _send(self, peer: Peer, command: Send) -> None:
        peers, message = command
        if len(peers) == 1:
            other = self._peers[peers[0]]
            self._message(peer, other, self._deliver, peer, [other], message)
            return
        queued = peer.up.wait(self._now)
        for seconds, group in self._by_wait(self._peers[other] for other in peers):
            self.later(queued + seconds, self._deliver, peer, group, message)

    def _deliver(self, peer: Peer, others: Sequence[Peer], message: wire.Kinds) -> None:
        for other in others:
            if not other.gone and peer.id in other.neighbours:
                other.machine.said(peer.id, message, self._now)
                self._act(other)

    def _serve(self, holder: Peer, upload: Upload) -> None:
        peer, size = self._peers[upload.peer], self._layout.length(upload.piece)
        begins = holder.up.wait(self._now) + peer.down.wait(self._now)
        piece = wire.Piece(*upload.blob, upload.piece, size)
        self.later(begins, self._begin_piece, peer, holder, piece)
        sent, passed = partial(self._sent, holder, upload), partial(self._passed, peer, holder, piece)
        self._flow(holder.up, peer.down, size, sent, passed)

    def _begin_piece(self, peer: Peer, holder: Peer, piece: wire.Piece) -> None:
        if not peer.gone:
            peer.machine.exchange.accepts(holder.id, piece, self._now)

    def _sent(self, holder: Peer, upload: Upload) -> None:
        if not holder.gone:
            holder.machine.uploaded(upload)
            self._act(holder)

    def _passed(self, peer: Peer, holder: Peer, piece: wire.Piece) -> None:
        if not peer.gone and not holder.gone:
            peer.machine.exchange.piece(holder.id, piece, _NOTHING, self._now)
            self._act(peer)

    # --- from the origin --------------------------------------------------------------------------------------------

    def _from_origin(self, piece: int) -> bytearray:
        """The content of a piece, which plays no part here."""
        return _NOTHING

    def _fetch(self, peer: Peer, stream_id: StreamId, stream: _Stream) -> None:
        """The next piece of a stream begins to leave the origin."""
        if stream.ended or peer.gone:
            return
        known = peer.machine.sourcing.streams.get(stream_id)
        if stream.next >= stream.end or known is None or not known.rest >> stream.next & 1:
            return
        piece, stream.next = stream.next, stream.next + 1
        size = self._layout.length(piece)
        left = partial(self._left_origin, peer, stream_id, stream, size)
        self._flow(self._origin, peer.down, size, left, partial(self._arrived, peer, stream_id, stream, piece))

    def _left_origin(self, peer: Peer, stream_id: StreamId, stream: _Stream, size: int) -> None:
        self._fetched += size
        self._fetch(peer, stream_id, stream)

    def _arrived(self, peer: Peer, stream_id: StreamId, stream: _Stream, piece: int) -> None:
        if peer.gone or stream.ended:
            return
        peer.machine.sourcing.received(stream_id, self._now)
        _, goes_on = peer.machine.sourcing.fetched(stream_id, piece, self._from_origin(piece))
        if not goes_on or piece + 1 == stream.end:
            stream.ended = True
            peer.streams.pop(stream_id, None)
            peer.machine.fetch_ended(stream_id, None, self._now)
        self._act(peer)
