"""What a reader waits for at this moment, as the machine and the streams from origins show it. No I/O.

A wait has one cause at a time, and may have several one after the other: they are looked up again and again while it
lasts (`peer.engine`).
"""

from __future__ import annotations

from collections.abc import Callable

from peer.account import Cause
from peer.machine import Machine
from peer.piecemap import StreamId
from peer.sought import Sought
from shoal.descriptor import BlobKey
from shoal.reference import Registry

_SILENT_SECONDS = 0.5
"""After so long without a byte, whoever was to send is taken to be silent."""


class Causes:
    """Looks up causes; times are in seconds of the machine's clock."""

    def __init__(
        self, machine: Machine, stream: Callable[[StreamId], Cause], limited: Callable[[], bool], has_supernode: bool
    ) -> None:
        """`stream` says what a stream from an origin waits for, and `limited` whether this node's own limits hold up
        what neighbours send."""
        self.is_quiet: Callable[[Registry], bool] = lambda _: False
        """Whether a registry is left alone, since it has answered 429 to some node."""
        self._machine = machine
        self._stream = stream
        self._limited = limited
        self._has_supernode = has_supernode

    def of(self, key: BlobKey, piece: int, now: float) -> Cause:
        """What a reader of a blob waits for that stands at `piece`."""
        sought = self._machine.sought.get(key)
        if sought is None or sought.pieces.there >> piece & 1:
            return Cause.VERIFYING
        pieces = sought.pieces
        if pieces.landing >> piece & 1:
            return Cause.DISK
        if pieces.leased >> piece & 1:
            return self._leased(sought, piece, now)
        if pieces.asked >> piece & 1:
            return self._asked(sought, piece, now)
        return self._absent(sought, piece, now)

    def _leased(self, sought: Sought, piece: int, now: float) -> Cause:
        for stream in self._machine.sourcing.streams.values():
            if stream.sought is sought and stream.rest >> piece & 1:
                if not stream.is_running:
                    return self._failed(sought)
                cause = self._stream(stream.id)
                is_stalled = cause is Cause.ORIGIN and now - stream.moved_at > _SILENT_SECONDS
                return Cause.ORIGIN_STALLED if is_stalled else cause
        return Cause.ORIGIN

    def _asked(self, sought: Sought, piece: int, now: float) -> Cause:
        if self._limited():
            return Cause.LIMIT
        requests = self._machine.exchange.requests
        silence = min((requests.silence(peer, now) for peer in sought.pieces.askers(piece)), default=0.0)
        return Cause.NEIGHBOUR_SILENT if silence > _SILENT_SECONDS else Cause.PEERS

    def _absent(self, sought: Sought, piece: int, now: float) -> Cause:
        """Nobody was asked for the piece."""
        exchange = self._machine.exchange
        holders = [peer for peer, theirs in sought.book.holders.items() if theirs >> piece & 1]
        if holders and sought.book.checkable >> piece & 1:
            if self._limited():
                return Cause.LIMIT
            return Cause.PEERS if exchange.requests.takers(holders, now) else Cause.NEIGHBOUR_BUSY
        if self._is_limited(sought):
            return Cause.RATE_LIMITED
        if self._has_supernode and not self._machine.connected:
            return Cause.SUPERNODE_GONE
        if self._has_supernode and (not sought.is_answered or holders):
            return Cause.HANDOUT
        if sought.contacts:
            return Cause.ELSEWHERE if exchange.sharers(sought) else Cause.NEIGHBOUR
        return Cause.ORIGIN_FAILED if sought.error() is not None or not self._has_supernode else Cause.LEASE

    def _failed(self, sought: Sought) -> Cause:
        return Cause.RATE_LIMITED if self._is_limited(sought) else Cause.ORIGIN_FAILED

    def _is_limited(self, sought: Sought) -> bool:
        """Whether each origin that could be asked has said to be left alone."""
        return bool(sought.places) and all(
            self.is_quiet(place.location.registry) or getattr(place.error, "after", None) is not None
            for place in sought.places.values()
        )
