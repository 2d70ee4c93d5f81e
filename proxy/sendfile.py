"""A stretch of a file to a client's socket, from the page cache without a copy through this process.

uvloop has no sendfile of its own and guards the descriptors of its transports; a duplicate of the descriptor may be
watched. The loop calls back once for each time that the socket takes bytes, so that many transfers share it fairly.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

from aiohttp.abc import AbstractStreamWriter

_PIECE = 1 << 20
"""Bytes in one call: below the time at which other connections would notice it."""


_FILE_ERRORS = {errno.EIO, errno.ESTALE, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA}
"""What a disk fails with, and no connection."""


class FileUnreadable(OSError):
    """The file ends early, or its disk fails."""


async def send_file(
    transport: asyncio.Transport,
    writer: AbstractStreamWriter,
    file: int,
    start: int,
    end: int,
    sent: Callable[[int], None],
) -> None:
    """Send bytes `start` to `end` of the open file `file` behind what was written to `transport` before.

    `sent` is told how many bytes have gone, also where not all could. Raises `ConnectionError` where the client is
    gone, `FileUnreadable` where the file ends early or cannot be read.
    """
    if transport.get_extra_info("sslcontext") is not None:
        await _send_copied(writer, file, start, end, sent)
        return
    await _flush(transport, writer)
    connection: socket.socket = transport.get_extra_info("socket")
    if transport.is_closing():
        raise ConnectionResetError("the client is gone")
    descriptor = os.dup(connection.fileno())
    transfer = _SendFile(descriptor, file, start, end)
    try:
        await transfer.run()
    finally:
        os.close(descriptor)
        sent(transfer.offset - start)


class _SendFile:
    """One transfer; `descriptor` is a socket that does not block."""

    def __init__(self, descriptor: int, file: int, start: int, end: int) -> None:
        self._descriptor = descriptor
        self._file = file
        self.offset = start
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> None:
        self._send()
        if not self._done.done():
            self._loop.add_writer(self._descriptor, self._send)
            try:
                await self._done
            finally:
                self._loop.remove_writer(self._descriptor)
        else:
            await self._done

    def _send(self) -> None:
        if self._done.done():
            return
        try:
            count = os.sendfile(self._descriptor, self._file, self.offset, min(self._end - self.offset, _PIECE))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            unreadable = error.errno in _FILE_ERRORS
            self._done.set_exception(FileUnreadable(str(error)) if unreadable else error)
            return
        self.offset += count
        if self.offset >= self._end:
            self._done.set_result(None)
        elif count == 0:
            self._done.set_exception(FileUnreadable(f"the file ends {self._end - self.offset} bytes early"))


async def _flush(transport: asyncio.Transport, writer: AbstractStreamWriter) -> None:
    """Wait until what was written, the headers, has left this process."""
    if transport.get_write_buffer_size() == 0:
        return
    await asyncio.sleep(0)  # uvloop writes at the end of a turn
    if transport.get_write_buffer_size() == 0:
        return
    transport.set_write_buffer_limits(high=0)
    try:
        await writer.drain()
    finally:
        transport.set_write_buffer_limits()


async def _send_copied(
    writer: AbstractStreamWriter, file: int, start: int, end: int, sent: Callable[[int], None]
) -> None:
    """What TLS needs: the bytes have to pass through this process."""
    for offset in range(start, end, _PIECE):
        try:
            content = os.pread(file, min(_PIECE, end - offset), offset)
        except OSError as error:
            raise FileUnreadable(str(error)) from None
        if not content:
            raise FileUnreadable(f"the file ends {end - offset} bytes early")
        await writer.write(content)
        sent(len(content))
