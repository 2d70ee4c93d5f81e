"""A blob that somebody reads: from the store, or as it comes."""

from __future__ import annotations

from typing import Self

from peer.disk import StoreError, read_all
from peer.errors import DownloadFailed
from peer.readers import Reader, Readers
from peer.sink import Sink
from peer.store import StoredBlob
from shoal.descriptor import Descriptor


class OpenBlob:
    """An async context manager. Leaving it does not stop the download."""

    def __init__(
        self, descriptor: Descriptor, stored: StoredBlob | None, readers: Readers | None, reader: Reader | None
    ) -> None:
        """Either a file of the store, or one of the readers of a blob on its way."""
        self.descriptor = descriptor
        self._stored = stored
        self._readers = readers
        self._reader = reader

    @property
    def source(self) -> str:
        """Where its bytes come from, for metrics."""
        return "store" if self._stored is not None else "download"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._stored is not None:
            self._stored.close()
        if self._readers is not None and self._reader is not None:
            self._readers.leave(self._reader)

    async def ready(self, start: int) -> None:
        """Wait until a byte at `start` can be given, or for long enough while bytes of the blob come; raises
        `OriginError` or `DownloadFailed`."""
        if self._reader is not None:
            await self._reader.ready(start)

    async def send(self, sink: Sink, start: int, end: int) -> None:
        """Give bytes `start` to `end` as they come; raises `OriginError` or `DownloadFailed`."""
        try:
            if self._reader is not None:
                await self._reader.send(sink, start, end)
            elif self._stored is not None:
                await sink.send_file(self._stored.fd, start, end)
        except StoreError as error:
            raise DownloadFailed(str(error)) from None

    async def content(self) -> bytes:
        """The whole blob in memory: for manifests."""
        collected = _Collected()
        try:
            await self.send(collected, 0, self.descriptor.size)
        except OSError as error:
            raise DownloadFailed(f"the stored blob cannot be read: {error}") from None
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
        self.content += read_all(file, start, end - start)
