"""The peer as the front end sees it (`peer.supply` implements it)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Protocol, Self

from peer.asked import Asked
from peer.sink import Sink, Source
from shoal.descriptor import Descriptor
from shoal.digest import Digest
from shoal.reference import Location


class Blob(Protocol):
    """An open blob, an async context manager; leaving it does not stop its download."""

    @property
    def descriptor(self) -> Descriptor:
        """Digest and size; the size of a stored blob is that of its verified bytes."""

    def sources(self, start: int, end: int) -> Iterable[tuple[Source, int]]:
        """Where bytes `start` to `end` that were given came from, and how many from there."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    async def ready(self, start: int) -> None:
        """Wait until a byte at `start` can be given, or for as long as clients wait for headers while bytes of the
        blob come; raises `OriginError` or `DownloadFailed`."""

    async def send(self, sink: Sink, start: int, end: int) -> None:
        """Give bytes `start` to `end` to `sink`; raises `OriginError`, `DownloadFailed` or what `sink` raises."""

    async def content(self) -> bytes:
        """The whole of a small blob, such as a manifest; raises `OriginError` or `DownloadFailed`."""


class BlobSource(Protocol):
    """Where blobs come from: store, swarm or origin."""

    def stored(self, digest: Digest) -> int | None:
        """Bytes of the complete, verified blob on this node, or None where it is not there."""

    def expect(self, blobs: Sequence[Descriptor], location: Location) -> None:
        """A manifest was read at `location` that names these blobs, in this order."""

    def named(self, digest: Digest, location: Location) -> Descriptor | None:
        """What a manifest that was read at `location` said of a blob; None where none named it."""

    def names(self, digest: Digest, size: int, location: Location) -> bool:
        """Whether any manifest that was read at `location` gave a blob this size: of several the last one counts."""

    async def open(
        self, blob: Descriptor, location: Location, asked: Asked | None = None, since: float | None = None
    ) -> Blob:
        """The blob, or the download of it that this begins or joins; returns at once. Raises `DownloadFailed`.

        `asked`: the ranges that are wanted of it, and what is to be fetched behind them; None: all of it. `since`: from
        when on the client waits, by the monotonic clock.
        """
