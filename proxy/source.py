"""The piece engine as the front end sees it (`peer.engine` implements it)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from shoal.descriptor import Descriptor
from shoal.digest import Digest
from shoal.reference import Location


class Blob(Protocol):
    """An open blob, an async context manager; leaving it does not stop its download."""

    @property
    def descriptor(self) -> Descriptor:
        """Digest and size."""

    @property
    def stored(self) -> Path | None:
        """The complete, verified file, or None while the blob is on its way."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    async def ready(self, start: int) -> None:
        """Wait until a byte at `start` can be served; raises `OriginError` or `DownloadFailed`."""

    def read(self, start: int, end: int) -> AsyncIterator[bytes | memoryview]:
        """Bytes `start` to `end` as they come; raises `OriginError` or `DownloadFailed`."""


class StoredBlobs(Protocol):
    """The complete, verified blobs of this node (`peer.store` implements it)."""

    def size(self, digest: Digest) -> int | None:
        """Bytes of a stored blob, or None where it is not there."""

    def path(self, digest: Digest) -> Path:
        """Its file."""


class BlobSource(Protocol):
    """Where blobs come from: store, swarm or origin."""

    @property
    def store(self) -> StoredBlobs:
        """What needs no download."""

    def expect(self, blobs: Sequence[Descriptor], location: Location) -> None:
        """A manifest was read that names these blobs, in this order."""

    def known(self, digest: Digest) -> Descriptor | None:
        """A blob whose size is known already."""

    async def open(self, blob: Descriptor, location: Location) -> Blob:
        """The blob, or the download of it that this begins or joins; returns at once."""
