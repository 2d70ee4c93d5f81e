"""One connection to another peer: bytes in and out of a non-blocking socket, as lean as they can be.

Received bytes go straight into the memory of the piece; sent pieces go from the file to the socket by `sendfile`, where
no TLS is between the two.
Messages overtake the rest of a piece that is being sent.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from peer import wire
from peer.lines import line_of
from shoal.handshake import UNSEALED, Session, Unsealed
from shoal.messages import InvalidMessage

log = structlog.get_logger()

_MIN_CHUNK, _MAX_CHUNK = 32 << 10, 1 << 20
"""Bytes that may lie unsent in the kernel, and so of one chunk: a few, else "in service" means nothing."""
_CHUNK_SECONDS = 0.01
"""A chunk is what the connection sends in this time."""
_FLIGHT_SECONDS = 0.07
"""The send buffer holds what an upload sends in this time and one round trip, the same for all connections: with more
the queues before all links stand full, with less who is slow at first stays slow (docs/architecture.md, "Little on its
way")."""
_MIN_FLIGHT, _MAX_FLIGHT = 16 << 10, 192 << 10
"""Bytes of send buffer. What is faster from the start is left to the kernel, which gives more than we may ask for."""
_WAKE_BYTES = 32 << 10
"""Inside a chunk nothing else can come, so that it is read in parts of this size and not as it trickles in."""
_TCP_INFO_SIZE, _TRAFFIC_OFFSET, _MIN_RTT_OFFSET = 152, 120, 148
"""Of `struct tcp_info` (linux/tcp.h): bytes up to and including `tcpi_min_rtt`, which is in microseconds; the places of
`tcpi_bytes_acked` and `tcpi_bytes_received`, and of `tcpi_min_rtt`."""
_MAX_BACKLOG = 8 << 20
"""Bytes of messages that may wait here for a neighbour that does not read, the kernel's buffer aside."""
_READS_PER_WAKE = 8
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL, _KEEPALIVE_PROBES = 15, 5, 3
_USER_TIMEOUT_MS = 6_000
"""For which what was sent may be unacknowledged. Over a link that was cut for longer TCP would try again only after as
long as the cut lasted; a new connection gets through at once."""


@dataclass(slots=True)
class Span:
    """Bytes of a file that are to be sent as a piece.

    `release` is called once with whether they were sent, by the event loop and never inside another call.
    """

    message: wire.Piece
    fd: int
    offset: int
    release: Callable[[bool], None]
    rate: float
    """Bytes/s at which it is expected to go; 0 where that is not known."""
    book: Callable[[int, Callable[[], None]], Waiting | None]
    """Takes a turn for so many bytes: None where it has come, else the other one is called when it comes."""
    sent: int = 0


class Waiting(Protocol):
    """A turn that has not come."""

    def cancel(self) -> None:
        """Nobody waits for it any more."""


class Intake(Protocol):
    """How fast bytes may come."""

    @property
    def portion(self) -> int:
        """Bytes that may be read in one go; 0 where there is no limit."""

    def book(self, size: int, go: Callable[[], None]) -> Waiting | None:
        """Take a turn for bytes that have come: nothing more is read until `go` is called. None: it has come."""


class Handler(Protocol):
    """Who is told what comes. What it raises is logged and ends the connection; `InvalidMessage` is the neighbour's."""

    def accept(self, connection: Connection, piece: wire.Piece) -> bytearray | None:
        """Memory for a piece that begins, or None to drop it."""

    def received(self, connection: Connection, event: wire.Event) -> None:
        """A message or a whole piece; raises `InvalidMessage` to end the connection."""

    def closed(self, connection: Connection, reason: str) -> None:
        """The connection is over; called once, inside `close` and so inside any `send`: only to keep books."""


class Connection:
    """A connected socket. Takes it over: `close` closes it."""

    def __init__(
        self,
        sock: socket.socket,
        handler: Handler,
        session: Session | Unsealed = UNSEALED,
        intake: Intake | None = None,
    ) -> None:
        """`session` seals and opens messages; the bytes of pieces, which have their digests, go as they are.

        Without an `intake` all is read as it comes.
        """
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._fd = sock.fileno()
        self._line = line_of(sock)
        self._handler = handler
        self._session = session
        self._decoder: wire.Decoder | None = wire.Decoder(self._accept, session)
        """Refers back to the connection, and is None when that is closed, so that both are freed at once."""
        self._messages: deque[bytes] = deque()
        self._backlog = 0
        """Bytes of `_messages`."""
        self._out = b""
        self._spans: deque[Span] = deque()
        self._turn: Waiting | None = None
        """For the next chunk, which has been booked."""
        self._intake = intake
        self._held: Waiting | None = None
        """Until its turn comes nothing is read."""
        self._due: int | None = None
        """Bytes of the next chunk, when its turn has come."""
        self._chunk_left = 0
        self._chunk = _MIN_CHUNK
        self._flight = _MAX_FLIGHT
        self._wake = 1
        self._blocked = False
        self._traffic: tuple[int, int] = (0, 0)
        self._reading_at = time.monotonic()
        self.closed = False
        sock.setblocking(False)
        _tune(sock)
        self._set_unsent_limit(self._chunk)
        self._loop.add_reader(self._fd, self._readable)

    @property
    def receiving(self) -> bool:
        """Whether bytes of a piece are to come before anything else, or lie here because of this side's own limit."""
        return self._held is not None or (self._decoder is not None and self._decoder.chunk_left > 0)

    @property
    def heard_at(self) -> float:
        """When bytes came last, in seconds of the monotonic clock: now, where they are not read by own choice."""
        return self._reading_at if self._held is None else time.monotonic()

    def traffic(self) -> tuple[int, int]:
        """Bytes that have arrived at the other side, and that have come from it, since the last call."""
        if self.closed:
            return 0, 0
        before, self._traffic = self._traffic, struct.unpack_from("=QQ", self._tcp_info(), _TRAFFIC_OFFSET)
        return self._traffic[0] - before[0], self._traffic[1] - before[1]

    def greeted(self) -> None:
        """The other side has said who it is: from here on it may send large messages."""
        if self._decoder is not None:
            self._decoder.greeted()

    def send(self, message: wire.Kinds) -> None:
        """Send a message as soon as the socket takes it."""
        self.send_encoded(wire.codec.encode(message))

    def send_encoded(self, message: bytes) -> None:
        """Send a message that was encoded before."""
        if self.closed:
            return
        data = wire.framed(self._session.seal(message))
        self._messages.append(data)
        self._backlog += len(data)
        if self._backlog + len(self._out) > _MAX_BACKLOG:
            self.close("it does not read")
        elif not self._blocked:
            self._pump()

    def send_piece(self, span: Span) -> None:
        """Send a piece behind those that were given before."""
        if self.closed:
            self._loop.call_soon(span.release, False)
            return
        self._spans.append(span)
        if not self._blocked:
            self._pump()

    def close(self, reason: str) -> None:
        """End the connection at once."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._fd)
        if self._blocked:
            self._loop.remove_writer(self._fd)
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self._held is not None:
            self._held.cancel()
            self._held = None
        self._socket.close()
        self._decoder = None
        self._out = b""
        self._messages.clear()
        for span in self._spans:
            self._loop.call_soon(span.release, False)
        self._spans.clear()
        self._handler.closed(self, reason)

    def _failed(self) -> None:
        """To be called inside `except`: an error of our own ends this connection and no other."""
        log.exception("connection.failed")
        self.close("an error on this side")

    # --- receiving ------------------------------------------------------------------------------------------------

    def _accept(self, piece: wire.Piece) -> bytearray | None:
        return None if self.closed else self._handler.accept(self, piece)

    def _readable(self) -> None:
        self._reading_at = time.monotonic()
        try:
            for _ in range(_READS_PER_WAKE):
                if self._decoder is None or not self._read(self._decoder):
                    break
            while self._decoder is not None and self._held is None and self._line.is_pending():
                self._read(self._decoder)
            if self._decoder is not None:
                self._set_wake(min(self._decoder.chunk_left, _WAKE_BYTES) or 1)
        except InvalidMessage as error:
            self.close(f"invalid message: {error}")
        except Exception:
            self._failed()

    def _read(self, decoder: wire.Decoder) -> bool:
        """Receive once and pass on what that brings; returns whether there may be more."""
        buffer = decoder.buffer()
        intake = self._intake
        if intake is not None and intake.portion:
            buffer = buffer[: intake.portion]
        try:
            count = self._line.receive(buffer)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self.close(str(error))
            return False
        if count == 0:
            self.close("closed by the other side")
            return False
        events = decoder.received(count)
        while events and not self.closed:
            for event in events:
                self._handler.received(self, event)
                if self.closed:
                    return False
            events = decoder.received(0)
        if intake is not None and intake.portion and not self.closed:
            self._hold(intake.book(count, self._read_on))
        return self._held is None and self._line.has_more(count, len(buffer))

    def _hold(self, turn: Waiting | None) -> None:
        """Read nothing until a turn comes: what a neighbour sends stays in the kernel, and then with it."""
        if turn is not None:
            self._held = turn
            self._loop.remove_reader(self._fd)

    def _read_on(self) -> None:
        self._held = None
        self._loop.add_reader(self._fd, self._readable)
        self._readable()

    def _set_wake(self, size: int) -> None:
        """Let the kernel call when so many bytes are there."""
        if size != self._wake and self._line.wakes_late:
            self._wake = size
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    # --- sending --------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        try:
            while self._step():
                pass
        except (BlockingIOError, InterruptedError):
            if not self._blocked:
                self._blocked = True
                self._loop.add_writer(self._fd, self._pump)
        except OSError as error:
            self.close(str(error))
        except Exception:
            self._failed()
        else:
            if self._blocked:
                self._blocked = False
                self._loop.remove_writer(self._fd)

    def _step(self) -> bool:
        """Send a bit; False where nothing is left. Raises `BlockingIOError` where the socket takes no more."""
        if self._out:
            # a chunk's length goes out with the chunk, not as a packet of its own
            self._out = self._out[self._line.send(self._out, self._chunk_left > 0) :]
        elif self._chunk_left:
            self._send_chunk()
        elif self._messages:
            self._out = self._messages[0] if len(self._messages) == 1 else b"".join(self._messages)
            self._messages.clear()
            self._backlog = 0
        elif self._due is not None:
            self._begin_chunk(self._due)
        elif self._spans and self._turn is None:
            self._book_chunk()
        else:
            return False
        return True

    def _book_chunk(self) -> None:
        """Let the next chunk wait for its turn among those of all connections."""
        span = self._spans[0]
        if span.sent == 0 and span.rate:
            self._fit_to(span.rate)
        size = min(self._chunk, span.message.length - span.sent)
        self._turn = span.book(size, functools.partial(self._turn_has_come, size))
        if self._turn is None:
            self._due = size

    def _turn_has_come(self, size: int) -> None:
        self._turn, self._due = None, size
        if not self._blocked:
            self._pump()

    def _begin_chunk(self, size: int) -> None:
        span = self._spans[0]
        self._due = None
        if span.sent == 0:
            self._out = wire.frame(span.message, self._session)
        self._chunk_left = size
        if size:
            self._out += wire.chunk_prefix(size)
        else:
            self._span_done()

    def _send_chunk(self) -> None:
        span = self._spans[0]
        sent = self._line.send_file(span.fd, span.offset + span.sent, self._chunk_left)
        if sent == 0:
            raise OSError("the file of a piece is shorter than the piece")
        span.sent += sent
        self._chunk_left -= sent
        if span.sent == span.message.length:
            self._span_done()

    def _span_done(self) -> None:
        self._loop.call_soon(self._spans.popleft().release, True)

    def _fit_to(self, rate: float) -> None:
        """Fit chunks and send buffer to a rate in bytes/s."""
        chunk = int(min(max(rate * _CHUNK_SECONDS, _MIN_CHUNK), _MAX_CHUNK))
        if not self._chunk / 2 < chunk < self._chunk * 2:
            self._chunk = chunk
            self._set_unsent_limit(chunk)
        flight = int(min(max(rate * (_FLIGHT_SECONDS + self._min_rtt()), _MIN_FLIGHT), _MAX_FLIGHT))
        if not self._flight * 2 / 3 < flight < self._flight * 3 / 2:
            self._flight = flight
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, flight)

    def _min_rtt(self) -> float:
        """Seconds that a round trip took at least."""
        (microseconds,) = struct.unpack_from("=I", self._tcp_info(), _MIN_RTT_OFFSET)
        return float(microseconds) / 1e6

    def _tcp_info(self) -> bytes:
        return self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)

    def _set_unsent_limit(self, size: int) -> None:
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, size)


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
