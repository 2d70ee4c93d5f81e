"""The machine at work: what happens around it is told to it, and what it decides goes to who carries it out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from peer import wire
from peer.arrivals import Arrivals
from peer.commands import Command
from peer.machine import Machine
from peer.metrics import PeerMetrics
from peer.piecemap import StreamId
from peer.sought import Sought
from peer.tally import OTHERS, Supplier, Tally
from peer.uploads import Upload
from shoal.messages import key_of
from supernode.protocol import PeerId

log = structlog.get_logger()


class Runner:
    """Tells the machine of neighbours, streams and uploads, and when its time has come. Belongs to the event loop."""

    def __init__(
        self,
        machine: Machine,
        metrics: PeerMetrics,
        tally: Tally,
        arrivals: Arrivals,
        do: Callable[[Command], None],
        heard: Callable[[PeerId, wire.Request], None],
    ) -> None:
        """`do` carries out one command; `heard` is told of requests that belong to a neighbour's trace."""
        self.machine = machine
        self.looks: Callable[[float], None] = lambda _: None
        """Told each time that something may have changed for who waits."""
        self._tally = tally
        self._arrivals = arrivals
        self._metrics = metrics
        self._do = do
        self._heard = heard
        self._is_due = False
        self._wake: asyncio.TimerHandle | None = None

    # --- what is decided --------------------------------------------------------------------------------------------

    def carry_out_soon(self) -> None:
        """Decide and act when all that comes at this moment has come."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self.carry_out)

    def carry_out(self) -> None:
        """Decide and act now."""
        self._is_due = False
        for command in self.machine.take(time.monotonic()):
            try:
                self._do(command)
            except Exception:  # a fault of ours in one command must not lose the others
                log.exception("engine.command_failed", command=type(command).__name__)
        self.looks(time.monotonic())
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        wake_at = self.machine.wake_at
        if wake_at != float("inf"):
            delay = max(0.0, wake_at - time.monotonic())
            self._wake = asyncio.get_running_loop().call_later(delay, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self.machine.wake(time.monotonic())
        self.carry_out()

    # --- streams (peer.fetcher.Events) ------------------------------------------------------------------------------

    def received(self, stream: StreamId, count: int) -> None:
        """Bytes of an origin came."""
        now, brings = time.monotonic(), self.machine.sourcing.streams.get(stream)
        registry = OTHERS if brings is None else brings.place.location.registry
        self._tally.came_from_origin(registry, count)
        if brings is not None:
            self._came(brings.sought, Supplier(registry, is_origin=True), count, now)
        self.machine.sourcing.received(stream, now)

    def fetched(self, stream: StreamId, piece: int, content: bytearray) -> tuple[bool, bool]:
        """A stream has brought a piece."""
        self.carry_out_soon()
        return self.machine.sourcing.fetched(stream, piece, content)

    def fetch_ended(self, stream: StreamId, error: Exception | None) -> None:
        """A stream is over."""
        self.machine.fetch_ended(stream, error, time.monotonic())
        self.carry_out_soon()

    # --- neighbours (peer.neighbours.Handler) -----------------------------------------------------------------------

    def arrived(self, peer: PeerId) -> None:
        """A neighbour is connected."""
        self.machine.arrived(peer, time.monotonic())
        self.carry_out_soon()

    def gone(self, peer: PeerId, reason: str) -> None:
        """A neighbour's connection is over."""
        self.machine.gone(peer, time.monotonic())
        self.carry_out_soon()

    def unreachable(self, peer: PeerId) -> None:
        """A peer could not be connected to."""
        self.machine.unreachable(peer, time.monotonic())
        self.carry_out_soon()

    def said(self, peer: PeerId, event: wire.Event) -> None:
        """A message of a neighbour, or a piece; raises `InvalidMessage`."""
        now = time.monotonic()
        if isinstance(event, wire.PieceReceived):
            self._piece(peer, event, now)
        else:
            if isinstance(event, wire.Request) and event.trace:
                self._heard(peer, event)
            self.machine.said(peer, event, now)
        self.carry_out_soon()

    def accept(self, peer: PeerId, piece: wire.Piece) -> bytearray | None:
        """Memory for a piece that was asked for and is of the right length."""
        wanted = self.machine.exchange.accepts(peer, piece, time.monotonic())
        return bytearray(piece.length) if wanted else None

    def _piece(self, peer: PeerId, event: wire.PieceReceived, now: float) -> None:
        content = event.buffer
        seconds = None if content is None else self.machine.exchange.piece(peer, event.message, content, now)
        if seconds is None:
            self._metrics.pieces.labels("duplicate").inc()
        else:
            length = event.message.length
            self._came(self.machine.sought[key_of(event.message)], Supplier(peer, is_origin=False), length, now)
            self._tally.peers_in += length
            self._metrics.piece_seconds.observe(seconds)

    def _came(self, sought: Sought, supplier: Supplier, count: int, now: float) -> None:
        self._arrivals.came(sought.key.digest, sought.delivery, supplier, count, now)

    # --- uploads ----------------------------------------------------------------------------------------------------

    def uploaded(self, upload: Upload) -> None:
        """A piece has been served, or could not be."""
        self.machine.uploaded(upload)
        self.carry_out_soon()

    def unservable(self, upload: Upload) -> None:
        """A piece cannot be read."""
        self.machine.unservable(upload)
        self.carry_out_soon()
