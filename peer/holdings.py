"""The finished blobs of a node, wherever they lie: in its store, or else in containerd's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from peer.contentstore import ContentStore
from peer.store import Store
from peer.storedblob import StoredBlob
from shoal.descriptor import BlobKey
from shoal.digest import Digest


class Holdings:
    """What can be read, and so be offered (`peer.sharing.Library`). `content` is None where containerd is not asked."""

    def __init__(self, store: Store, content: ContentStore | None) -> None:
        self._store = store
        self._content = content

    def size(self, digest: Digest) -> int | None:
        """Bytes of a blob, None where it is not here."""
        size = self._store.size(digest)
        return self._content.size(digest) if size is None and self._content is not None else size

    def digests(self) -> Iterator[tuple[Digest, int]]:
        """All blobs of this moment with their sizes in bytes, each once."""
        if self._content is None:
            return self._store.digests()
        others = (each for each in self._content.digests() if self._store.size(each[0]) is None)
        return itertools.chain(self._store.digests(), others)

    def holds(self, blob: BlobKey) -> bool:
        """Whether the whole, verified blob is here."""
        return self.size(blob.digest) == blob.size

    def holdings(self) -> Iterator[BlobKey]:
        """All verified blobs."""
        return (BlobKey(digest, size) for digest, size in self.digests())

    def condemn(self, digest: Digest, reason: str) -> None:
        """A blob cannot be read: it is not here any more, wherever it lies.

        Raises `StoreError` where its file cannot be moved.
        """
        if self._store.size(digest) is not None:
            self._store.condemn(digest, reason)
        elif self._content is not None:
            self._content.condemn(digest)

    def open_blob(self, digest: Digest) -> StoredBlob | None:
        """A blob to read from; None where it is not here, or no more. Raises `StoreError`."""
        stored = self._store.open_blob(digest)
        return self._content.open_blob(digest) if stored is None and self._content is not None else stored
