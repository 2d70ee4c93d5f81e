"""Where a download's pieces come from: leases that the supernode grants, or the origin alone where nobody helps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import structlog

from peer.download import Download
from peer.exchange import PieceExchange
from peer.leases import HeldLease, LeaseStream
from peer.metrics import PeerMetrics
from peer.origin import Origin, OriginDenied, OriginNotFound
from peer.settings import PeerSettings
from peer.store import Store
from peer.workers import Workers
from shoal.digest import Digest
from shoal.messages import InvalidMessage
from shoal.pieces import (
    MIB,
    PIECE_DIGEST_SIZE,
    PieceLayout,
    from_bitfield,
    iterate,
    leading_run,
    lowest,
    piece_digest,
    run_of,
    to_bitfield,
)
from supernode import protocol
from supernode.client import ControlClient
from supernode.protocol import LeaseId, PeerId, ReleaseReason

log = structlog.get_logger()

_STREAMS = 4
"""Streams from the origin for blobs that nobody waits for yet."""
_ALONE_RUN = 16 * MIB
"""Bytes that a peer without its supernode fetches in one go of a blob of which neighbours have parts."""
_LOST_WAITS = 2
"""Times `origin_wait` after which pieces that were fetched once, and that nobody in reach has, are fetched again."""
_NEWS_SECONDS = 1.0
_BATCH = 1000
_ALONE = LeaseId(0)


class Owner(Protocol):
    """The engine, as far as it is asked from here."""

    id: PeerId
    store: Store
    metrics: PeerMetrics
    exchange: PieceExchange
    workers: Workers

    @property
    def port(self) -> int: ...

    @property
    def downloads(self) -> dict[Digest, Download]: ...

    def void(self, download: Download) -> None: ...


@dataclass(slots=True)
class _Stream:
    lease: HeldLease
    task: asyncio.Task[None]


class Sourcing:
    """The peer's side of leases, and its judgement of when to go to the origin by itself."""

    def __init__(self, owner: Owner, settings: PeerSettings, origin: Origin, control: ControlClient | None) -> None:
        self._owner = owner
        self._settings = settings
        self._origin = origin
        self._control = control
        self._streams: dict[int, _Stream] = {}
        self._local_ids = 0
        self._answered: set[Digest] = set()
        self._voided: set[Digest] = set()
        self._alone: set[Digest] = set()
        """Blobs that nobody helps with although the supernode is there: until it says something new of them."""
        self._dirty: set[Digest] = set()
        self._lost_at = time.monotonic()
        self._moved_at = time.monotonic()
        self._announced_at = 0.0
        self._interval = 5.0
        self._task: asyncio.Task[None] | None = None
        self._tables: set[asyncio.Task[None]] = set()
        owner.metrics.leases.set_function(lambda: len(self._streams))
        owner.metrics.connected.set_function(lambda: float(self.connected))

    async def __aenter__(self) -> Self:
        if self._control is not None:
            self._task = asyncio.create_task(self._control.run(self))
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [stream.task for stream in self._streams.values()] + list(self._tables)
        if self._task is not None:
            tasks.append(self._task)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def connected(self) -> bool:
        return self._control is not None and self._control.connected

    # --- what happens to downloads --------------------------------------------------------------------------------

    def opened(self, downloads: list[Download]) -> None:
        """Downloads have begun, in the order in which they are wanted."""
        if self.connected:
            self._send_open(downloads)
        else:
            self.tick(time.monotonic())

    def demanded(self, download: Download) -> None:
        """Somebody waits now for a blob that was opened ahead."""
        if not self.connected:
            self.tick(time.monotonic())

    def gained(self, download: Download) -> None:
        """A piece came in."""
        self._moved_at = time.monotonic()
        self._dirty.add(download.blob.digest)

    def ended(self, download: Download) -> None:
        """A download is over, well or not."""
        digest = download.blob.digest
        for stream in [stream for stream in self._streams.values() if stream.lease.download is download]:
            self._cancel(stream, ReleaseReason.CLOSED)
        self._answered.discard(digest)
        self._alone.discard(digest)
        self._voided.discard(digest)
        self._dirty.discard(digest)
        if download.error is None:
            self._send(protocol.Announce([protocol.Held(digest, download.layout.size)]))
        else:
            self._send(protocol.Close([digest]))
        if not self.connected:
            self.tick(time.monotonic())

    def corrupt(self, download: Download) -> None:
        """All pieces matched and the blob did not."""
        self._voided.add(download.blob.digest)
        self._send(protocol.Corrupt(download.blob.digest))

    def tick(self, now: float) -> None:
        """Tell the supernode news, and see whether a download has to go to the origin by itself."""
        if self.connected:
            self._announce(now)
        lost = not self.connected and (self._control is None or now - self._lost_at > self._settings.origin_wait)
        busy = {stream.lease.download.blob.digest for stream in self._streams.values()}
        for digest, download in list(self._owner.downloads.items()):
            if digest in busy or download.over:
                continue
            if lost:
                if download.demanded or len(self._streams) < _STREAMS:
                    self._go_alone(download, now)
            elif digest in self._alone:
                self._go_alone(download, now)
            elif self._is_stalled(download, now):
                log.info("blob.stalled", digest=digest, seconds=round(now - download.moved_at, 1))
                self._alone.add(digest)
                self._go_alone(download, now)

    def _is_stalled(self, download: Download, now: float) -> bool:
        quiet = now - download.moved_at
        if self.connected and download.blob.digest not in self._answered:
            return quiet > self._settings.origin_wait
        if not self.connected or not download.waited_for:
            return False
        quiet = min(quiet, now - download.waited_since)
        if quiet > _LOST_WAITS * self._settings.origin_wait and self._owner.exchange.is_lost(download):
            return True
        stall = self._settings.stall
        return (quiet > stall and now - self._moved_at > stall) or quiet > 3 * stall

    def _go_alone(self, download: Download, now: float) -> None:
        """Fetch from the origin without a lease what cannot be had from neighbours."""
        layout, exchange = download.layout, self._owner.exchange
        obtainable = exchange.obtainable(download)
        needed = download.missing & ~obtainable
        if not needed:
            if now - download.moved_at < self._settings.origin_wait:
                return
            needed = download.missing
        ahead = needed & -1 << min(download.readers.values(), default=0)
        first = lowest(ahead or needed)
        run = leading_run(needed, first)
        if download.have or obtainable:
            run = min(run, max(1, _ALONE_RUN // layout.piece_size))
        self._local_ids -= 1
        self._begin(HeldLease(_ALONE, download, first, first + run), self._local_ids)

    # --- streams --------------------------------------------------------------------------------------------------

    def _begin(self, lease: HeldLease, key: int) -> None:
        self._owner.exchange.reserve(lease.download, run_of(lease.next, lease.end - lease.next))
        stream = LeaseStream(lease, self._origin, self._report, self._count)
        task = asyncio.create_task(self._carry_out(stream, key))
        self._streams[key] = _Stream(lease, task)
        self._owner.exchange.leases = len(self._streams)
        # a task that is cancelled before its first step runs no line of its own, so that this is left to the callback
        task.add_done_callback(lambda _: self._over(lease, key))

    async def _carry_out(self, stream: LeaseStream, key: int) -> None:
        lease = stream.lease
        reason, error = await stream.run()
        self._over(lease, key)
        if reason:
            log.warning("lease.failed", digest=lease.download.blob.digest, reason=reason, error=str(error))
            if lease.id:
                self._send(protocol.Release(lease.id, reason))
            final = isinstance(error, OriginDenied | OriginNotFound)
            if error is not None and reason != ReleaseReason.NO_RANGE:
                if final or not self._owner.exchange.obtainable(lease.download):
                    lease.download.fail(error)
            elif reason == ReleaseReason.NO_RANGE and not lease.id:
                self._begin(HeldLease(_ALONE, lease.download, 0, lease.download.layout.count), key)
        elif not self.connected or lease.download.blob.digest in self._alone:
            self.tick(time.monotonic())

    def _over(self, lease: HeldLease, key: int) -> None:
        stream = self._streams.get(key)
        if stream is None or stream.lease is not lease:
            return
        del self._streams[key]
        self._owner.exchange.leases = len(self._streams)
        if lease.next < lease.end:
            self._owner.exchange.unreserve(lease.download, run_of(lease.next, lease.end - lease.next))
        else:
            self._owner.exchange.schedule()

    def _cancel(self, stream: _Stream, reason: str) -> None:
        if stream.lease.id and reason:
            self._send(protocol.Release(stream.lease.id, reason))
        stream.task.cancel()

    def _report(self, lease: HeldLease, index: int, digest: bytes) -> None:
        if lease.id and digest:
            self._send(protocol.Progress(lease.id, index, digest))

    def _count(self, count: int) -> None:
        self._moved_at = time.monotonic()
        self._owner.metrics.bytes.labels("origin", "in").inc(count)

    # --- to the supernode -----------------------------------------------------------------------------------------

    def _send(self, message: protocol.FromPeer) -> None:
        if self._control is not None:
            self._control.send(message)

    def _send_open(self, downloads: Iterable[Download]) -> None:
        wanted = [
            protocol.Wanted(
                download.blob.digest,
                download.layout.size,
                download.location.registry,
                download.location.repository,
                to_bitfield(download.have, download.layout.count) if download.have else b"",
            )
            for download in downloads
        ]
        for start in range(0, len(wanted), _BATCH):
            self._send(protocol.Open(wanted[start : start + _BATCH]))

    def _announce(self, now: float) -> None:
        since = now - self._announced_at
        if since < _NEWS_SECONDS or (not self._dirty and since < self._interval):
            return
        self._announced_at = now
        held = [
            protocol.Held(digest, download.layout.size, to_bitfield(download.have, download.layout.count))
            for digest in self._dirty
            if (download := self._owner.downloads.get(digest)) is not None and download.have
        ]
        self._dirty.clear()
        self._send(protocol.Announce(held))

    # --- from the supernode (supernode.client.Listener) -----------------------------------------------------------

    def hello(self) -> protocol.Hello:
        """Who this peer is."""
        settings = self._settings
        return protocol.Hello(protocol.VERSION, self._owner.id, self._owner.port, settings.advertise, settings.zone)

    def welcomed(self, announce_interval: float) -> None:
        """A supernode that knows nothing yet: tell it everything."""
        self._interval = announce_interval
        self._answered.clear()
        now = time.monotonic()
        for download in self._owner.downloads.values():
            download.moved_at = max(download.moved_at, now)
        self._send_open(self._owner.downloads.values())
        stored = [protocol.Held(digest, size) for digest, size in self._owner.store.digests()]
        for start in range(0, len(stored), _BATCH):
            self._send(protocol.Announce(stored[start : start + _BATCH]))

    def lost(self) -> None:
        """No supernode: what it granted goes on, new leases do not come."""
        self._lost_at = time.monotonic()

    def receive(self, message: protocol.FromSupernode) -> None:
        """A message of the supernode."""
        try:
            self._receive(message)
        except (InvalidMessage, ValueError) as error:
            log.warning("supernode.invalid_message", kind=type(message).__name__, error=str(error))

    def _receive(self, message: protocol.FromSupernode) -> None:
        match message:
            case protocol.Handout():
                self._answered.add(Digest(message.digest))
                contacts = [
                    (protocol.parse_peer_id(other.peer), other.host, other.port) for other in message.neighbours
                ]
                self._owner.exchange.meet(Digest(message.digest), contacts)
            case protocol.PieceDigests():
                self._digests(message)
            case protocol.Grant():
                self._granted(message)
            case protocol.Trim():
                self._trim(message)
            case protocol.Revoke():
                stream = self._streams.get(message.lease)
                if stream is not None:
                    self._cancel(stream, "")
            case protocol.NeedTable():
                task = asyncio.create_task(self._table(Digest(message.digest)))
                self._tables.add(task)
                task.add_done_callback(self._tables.discard)
            case protocol.Void():
                digest = Digest(message.digest)
                download = self._owner.downloads.get(digest)
                if digest in self._voided:
                    self._voided.discard(digest)
                elif download is not None and not download.verified:
                    self._owner.void(download)
            case _:
                raise InvalidMessage("not expected")

    def _digests(self, message: protocol.PieceDigests) -> None:
        download = self._owner.downloads.get(Digest(message.digest))
        if download is None:
            return
        pieces = from_bitfield(message.pieces, download.layout.count)
        for place, index in enumerate(iterate(pieces)):
            digest = message.digests[place * PIECE_DIGEST_SIZE : (place + 1) * PIECE_DIGEST_SIZE]
            if len(digest) != PIECE_DIGEST_SIZE:
                raise InvalidMessage("too few piece digests")
            download.table[index] = digest
        download.moved_at = time.monotonic()
        self._alone.discard(download.blob.digest)
        self._owner.exchange.digests_known(download, pieces)

    def _granted(self, message: protocol.Grant) -> None:
        download = self._owner.downloads.get(Digest(message.digest))
        if download is None or download.over or not 0 < message.count <= download.layout.count - message.first:
            self._send(protocol.Release(message.lease, ReleaseReason.CLOSED))
            return
        self._alone.discard(download.blob.digest)
        lease = HeldLease(LeaseId(message.lease), download, message.first, message.first + message.count)
        self._begin(lease, message.lease)

    def _trim(self, message: protocol.Trim) -> None:
        stream = self._streams.get(message.lease)
        if stream is None or message.end >= stream.lease.end:
            return
        lease = stream.lease
        given_up = run_of(max(message.end, lease.next), lease.end - max(message.end, lease.next))
        lease.end = max(message.end, lease.next)
        self._owner.exchange.unreserve(lease.download, given_up)
        if lease.next >= message.end:
            self._cancel(stream, ReleaseReason.CLOSED)

    async def _table(self, digest: Digest) -> None:
        """Tell the supernode the piece digests of a blob, complete or not."""
        download = self._owner.downloads.get(digest)
        size = self._owner.store.size(digest)
        if download is not None:
            pieces, digests = download.known_digests()
            layout = download.layout
        elif size is not None:
            layout = PieceLayout.of(size)
            pieces = layout.all
            try:
                digests = await self._owner.workers.run(_digests_of, self._owner.store.path(digest), layout)
            except OSError as error:
                log.warning("blob.unreadable", digest=digest, error=str(error))
                self._send(protocol.Close([digest]))
                return
        else:
            self._send(protocol.Close([digest]))
            return
        if pieces:
            self._send(protocol.Table(digest, layout.size, to_bitfield(pieces, layout.count), digests))


def _digests_of(path: Path, layout: PieceLayout) -> bytes:
    with path.open("rb") as file:
        return b"".join(piece_digest(file.read(layout.piece_size)) for _ in range(layout.count))
