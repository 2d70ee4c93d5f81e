"""The bytes of a connection, as they are or in TLS: what a non-blocking socket takes and gives at once.

All of it raises `BlockingIOError` where nothing can be done now, and `OSError` where the connection is over.
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import Protocol

_BLOCK_SIZE = 128 << 10
"""Bytes that are read from a file for TLS at a time."""


class Line(Protocol):
    """What a connection sends and receives by."""

    @property
    def wakes_late(self) -> bool:
        """Whether the kernel may wait until several bytes are there: not where some lie here, unreadable yet."""

    def receive(self, buffer: memoryview) -> int:
        """Bytes that were put into `buffer`; 0 at the end."""

    def has_more(self, count: int, size: int) -> bool:
        """Whether there may be more after `count` bytes came into a buffer of `size`."""

    def is_pending(self) -> bool:
        """Whether bytes lie here that the kernel does not call for."""

    def send(self, data: bytes, more: bool) -> int:
        """Bytes that were taken; `more`: others follow at once. What was refused is given again, unchanged."""

    def send_file(self, fd: int, offset: int, count: int) -> int:
        """Bytes of a file that were taken; 0 where the file ends there. What was refused is asked for again."""


class PlainLine:
    """A socket as it is."""

    wakes_late = True

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._fd = sock.fileno()

    def receive(self, buffer: memoryview) -> int:
        return self._sock.recv_into(buffer)

    def has_more(self, count: int, size: int) -> bool:
        return count == size

    def is_pending(self) -> bool:
        return False

    def send(self, data: bytes, more: bool) -> int:
        return self._sock.send(data, socket.MSG_MORE if more else 0)

    def send_file(self, fd: int, offset: int, count: int) -> int:
        return os.sendfile(self._fd, fd, offset, count)


class TlsLine:
    """A socket with TLS on it, whose handshake is done."""

    wakes_late = False

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._tls = sock
        self._block = memoryview(b"")
        """What was read from a file and not taken yet: TLS wants just these bytes again."""

    def receive(self, buffer: memoryview) -> int:
        try:
            return self._tls.recv_into(buffer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def has_more(self, count: int, size: int) -> bool:
        return True  # a record at most was read

    def is_pending(self) -> bool:
        return self._tls.pending() > 0

    def send(self, data: bytes | memoryview, more: bool) -> int:
        try:
            return self._tls.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def send_file(self, fd: int, offset: int, count: int) -> int:
        if not self._block:
            self._block = memoryview(os.pread(fd, min(count, _BLOCK_SIZE), offset))
            if not self._block:
                return 0
        sent = self.send(self._block, more=False)
        self._block = self._block[sent:]
        return sent


def line_of(sock: socket.socket) -> Line:
    """The line of a connected, non-blocking socket."""
    return TlsLine(sock) if isinstance(sock, ssl.SSLSocket) else PlainLine(sock)
