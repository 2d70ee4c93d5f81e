"""A client's connection as the place where a blob's bytes go (`peer.sink.Sink`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from aiohttp.abc import AbstractStreamWriter

from peer.sink import Unreadable
from proxy.sendfile import FileUnreadable, send_file


class ClientLeft(ConnectionError):
    """The client closed its connection, or took no byte for the time that it is given."""


class ClientSink:
    """The body of one response, of `length` bytes, behind headers that are out."""

    def __init__(
        self, transport: asyncio.Transport, writer: AbstractStreamWriter, length: int, sent: Callable[[int], None]
    ) -> None:
        """`sent` is told how many bytes have gone."""
        self._transport = transport
        self._writer = writer
        self._sent = sent
        self.missing = length
        """Bytes of the body that have not been given."""

    async def write(self, content: bytes | memoryview) -> None:
        """Raises `ClientLeft`."""
        size = memoryview(content).nbytes
        self._take(size)
        with _left():
            await self._writer.write(content)
        self._sent(size)

    async def send_file(self, file: int, start: int, end: int) -> None:
        """Raises `ClientLeft`, or `Unreadable` where the file ends early or cannot be read."""
        self._take(end - start)
        taken = 0

        def sent(count: int) -> None:
            nonlocal taken
            taken += count
            self._sent(count)

        with _left():
            try:
                await send_file(self._transport, self._writer, file, start, end, sent)
            except FileUnreadable as error:
                self.missing += end - start - taken
                raise Unreadable(str(error), taken) from None

    def _take(self, size: int) -> None:
        if size > self.missing:
            raise RuntimeError(f"{size} bytes were given for the last {self.missing} of a body")
        self.missing -= size


@contextlib.contextmanager
def _left() -> Iterator[None]:
    try:
        yield
    except (ConnectionError, TimeoutError) as error:
        raise ClientLeft(str(error) or repr(error)) from None
