"""A blob that somebody reads: from the store, or as it comes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Self

from peer.disk import StoreError, read_all
from peer.errors import DownloadFailed
from peer.readers import Reader, Readers
from peer.sink import Sink, Source, Unreadable
from peer.storedblob import StoredBlob
from shoal.descriptor import Descriptor


class OpenBlob:
    """An async context manager. Leaving it does not stop the download."""

    def __init__(
        self,
        descriptor: Descriptor,
        stored: StoredBlob | None = None,
        readers: Readers | None = None,
        reader: Reader | None = None,
        again: Callable[[Exception], Awaitable[OpenBlob]] | None = None,
    ) -> None:
        """Either a file of the store, or one of the readers of a blob on its way.

        `again` opens the blob another time where its file turns out to be unreadable.
        """
        self.descriptor = descriptor
        self._stored = stored
        self._readers = readers
        self._reader = reader
        self._again = again
        self._instead: OpenBlob | None = None
        self._has_given = False

    def sources(self, start: int, end: int) -> Iterable[tuple[Source, int]]:
        """Where bytes `start` to `end` that were given came from, and how many from there."""
        if self._instead is not None:
            return self._instead.sources(start, end)
        return (("store", end - start),) if self._readers is None else self._readers.sources(start, end)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._stored is not None:
            self._stored.close()
        if self._readers is not None and self._reader is not None:
            self._readers.leave(self._reader)
        if self._instead is not None:
            await self._instead.__aexit__()

    async def ready(self, start: int) -> None:
        """Wait until a byte at `start` can be given, or for long enough while bytes of the blob come; raises
        `OriginError` or `DownloadFailed`."""
        if self._reader is not None:
            await self._reader.ready(start)

    async def send(self, sink: Sink, start: int, end: int) -> None:
        """Give bytes `start` to `end` as they come; raises `OriginError` or `DownloadFailed`."""
        try:
            if self._instead is not None:
                await self._instead.send(sink, start, end)
            elif self._reader is not None:
                await self._reader.send(sink, start, end)
            elif self._stored is not None:
                await self._send_stored(self._stored, sink, start, end)
        except StoreError as error:
            raise DownloadFailed(str(error)) from None

    async def _send_stored(self, stored: StoredBlob, sink: Sink, start: int, end: int) -> None:
        """Where the file cannot be read, the blob is fetched again, and given as it comes unless a part of the file was
        given already: nobody knows whether that part was right."""
        try:
            await sink.send_file(stored.fd, start, end)
            self._has_given = True
        except Unreadable as error:
            assert self._again is not None
            instead = self._instead = await self._again(error)
            if self._has_given or error.taken:
                raise DownloadFailed(f"the stored blob cannot be read: {error}") from None
            await instead.send(sink, start, end)

    async def content(self) -> bytes:
        """The whole blob in memory: for manifests."""
        collected = _Collected()
        await self.send(collected, 0, self.descriptor.size)
        if len(collected.content) != self.descriptor.size:
            raise DownloadFailed(f"{len(collected.content)} of {self.descriptor.size} bytes came")
        return bytes(collected.content)


class _Collected:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.content = bytearray()

    async def write(self, content: bytes | memoryview) -> None:
        self.content += content

    async def send_file(self, file: int, start: int, end: int) -> None:
        try:
            self.content += read_all(file, start, end - start)
        except OSError as error:
            raise Unreadable(str(error), 0) from None
