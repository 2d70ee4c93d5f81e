"""The blob store: an OCI image layout on the disk, with partial blobs beside it.

    oci-layout, index.json       so that standard tools read it
    blobs/ALGORITHM/HEX          finished blobs: verified, synced, then renamed into place
    partial/ALGORITHM-HEX-SIZE.* blobs on their way (`peer.partial`), temporary files
    quarantine/ALGORITHM-HEX     files that are not what was verified under that name (`peer.quarantine`)
    index.sqlite                 what was verified, what manifests name, when it was used (`peer.index`)
    pins.json                    what is to stay (`peer.pins`)
    lock                         held by the process that has the store open (`peer.imagelayout`)

A blob is served only while its file is the one that was verified, by length, mtime and inode; another one has to be
hashed first (`peer.inspection`). What is known of finished blobs, `peer.inventory` keeps; which partial ones are open,
`peer.openpartials`. What is given up when there is no room, `peer.retention` decides. File modes are 0644 and 0755 less
the process's umask.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import structlog

from peer.disk import NO_FILE, Stamp, StoreError, failing_to, open_for_reading, write_durably
from peer.eviction import Reason, Stock, Victim
from peer.figures import StoreFigures
from peer.imagelayout import ImageLayout
from peer.inspection import Inspection, Pace
from peer.inventory import Inventory, Listener
from peer.leftovers import PartialFolder
from peer.openpartials import OpenPartials
from peer.partial import Partial
from peer.pins import Pins
from peer.quarantine import Quarantine
from peer.retention import Retention
from peer.settings import DEFAULT_CACHE, CacheSettings
from peer.stockroom import Stockroom
from peer.storedblob import StoredBlob
from shoal.descriptor import BlobKey
from shoal.digest import Digest

log = structlog.get_logger()


class Store:
    """The blobs of one node. Safe to use from several threads; what it knows of finished blobs is in memory."""

    def __init__(
        self, root: Path, cache: CacheSettings = DEFAULT_CACHE, now: Callable[[], float] | None = None
    ) -> None:
        """`now`: seconds since the epoch, by a clock that never goes back."""
        self.root = root
        clock = now or _steady()
        self._layout = ImageLayout(root)
        self._inventory = Inventory(self._layout, clock)
        self._quarantine = Quarantine(self._layout, self._inventory)
        self._inspection = Inspection(self._layout, self._inventory, self._quarantine)
        self._folder = PartialFolder(self._layout.partial, self._layout.path)
        self._partials = OpenPartials(self._folder, self._settled)
        self._pins = Pins(root, self._layout.partial)
        self._stockroom = Stockroom(self._layout, self._inventory, self._partials, self._quarantine, self._pins)
        self._retention = Retention(cache, root, self._stockroom, clock)

    def open(self) -> None:
        """Make the folders, take the lock, clean up after a crash and read what is there.

        Raises `StoreBusy` where another process has the store open, else `StoreError`.
        """
        with failing_to(f"open the store {self.root}"):
            self._layout.open()
            try:
                self._pins.load()
                self._inventory.open()
                self._clean_up()
            except BaseException:
                self.close()
                raise
        log.info("store.opened", root=str(self.root), pins=len(self._pins.names), **self._inventory.counts())

    def close(self) -> None:
        """Give the lock back. Partial blobs are closed by those who opened them, before."""
        self._inventory.close()
        self._partials.close()
        self._layout.close()

    def tell(self, listener: Listener) -> Listener:
        """Tell `listener` of blobs that are there no more, in whatever thread that is found or done.

        Returns who was told until now.
        """
        return self._inventory.tell(listener)

    def path(self, digest: Digest) -> Path:
        """Where the finished blob is, or will be."""
        return self._layout.path(digest)

    def size(self, digest: Digest) -> int | None:
        """Bytes of a finished blob, None where it is not here."""
        known = self._inventory.verified(digest)
        return None if known is None else known.stamp.size

    def digests(self) -> Iterator[tuple[Digest, int]]:
        """All finished blobs of this moment with their sizes in bytes."""
        return iter(self._inventory.sizes().items())

    def open_blob(self, digest: Digest) -> StoredBlob | None:
        """A finished blob to read from, None where it is not here.

        Where its file is gone, or is not the one that was verified, the blob is not here any more, and the file goes to
        `quarantine/`. Raises `StoreError` where the file cannot be opened.
        """
        known = self._inventory.verified(digest)
        if known is None:
            return None
        with failing_to(f"open {digest}"):
            try:
                fd = open_for_reading(self.path(digest))
            except OSError as error:
                if error.errno not in NO_FILE:
                    raise
            else:
                if known.stamp.fits(os.fstat(fd)):
                    self._inventory.begin_reading(digest, known)
                    return StoredBlob(fd, known.stamp.size, lambda: self._inventory.end_reading(digest))
                os.close(fd)
        self._quarantine.take(digest, known, "it is not the file that was verified")
        return None

    def condemn(self, digest: Digest, reason: str) -> None:
        """Serve a finished blob no longer, of which the file cannot be read; it goes to `quarantine/`.

        Raises `StoreError` where it cannot be moved; it is not served all the same.
        """
        known = self._inventory.verified(digest)
        if known is not None:
            self._quarantine.take(digest, known, reason)

    def peek(self, digest: Digest, limit: int) -> bytes | None:
        """The content of a finished blob of at most `limit` bytes, None where it is not here: no use that counts.

        Raises `StoreError` where the file cannot be read.
        """
        known = self._inventory.verified(digest)
        if known is None or known.stamp.size > limit:
            return None
        path = self.path(digest)
        with failing_to(f"read {digest}"):
            try:
                with open(path, "rb", opener=lambda _, __: open_for_reading(path)) as file:
                    return file.read(limit) if known.stamp.fits(os.fstat(file.fileno())) else None
            except OSError as error:
                if error.errno not in NO_FILE:
                    raise
                return None

    def remove(self, digest: Digest) -> int:
        """Have a finished blob no longer; returns its size in bytes, 0 where it was not here. Raises `StoreError`.

        Whoever reads it goes on to its end.
        """
        size = self._inventory.remove(digest)
        with failing_to(f"remove {digest}"):
            self.path(digest).unlink(missing_ok=True)
        return size

    def put(self, digest: Digest, content: bytes) -> None:
        """Store a small blob; raises `StoreError` where `content` has another digest, and `StoreFull`."""
        hasher = digest.hasher()
        hasher.update(content)
        if not digest.matches(hasher):
            raise StoreError(f"the content is not that of {digest}")
        if self.size(digest) is not None:
            return
        with failing_to(f"store {digest}"):
            stamp = write_durably(self.path(digest), content, by_way_of=self._layout.partial)
        self._inventory.admit(digest, stamp)
        self._retention.hold()

    def partial(self, key: BlobKey) -> Partial:
        """A blob to be filled, with the pieces that were left (`OpenPartials.open`): to be called in a thread.

        Raises `StoreError` where it is open already, `StoreFull`, and `ValueError` for a size out of bounds.
        """
        if not self._layout.is_open:
            raise StoreError("the store is not open")
        return self._partials.open(key)

    def resumable(self) -> list[BlobKey]:
        """The blobs of which pieces were left; what is not to be trusted is removed. Raises `StoreError`."""
        return self._partials.resumable()

    # --- what stays and what goes -------------------------------------------------------------------------------------

    def fits(self, size: int) -> bool:
        """Whether a blob of `size` bytes can be kept at all, with everything else gone. Raises `StoreError`."""
        return self._retention.fits(size)

    def make_room(self, size: int) -> bool:
        """Whether `size` bytes may be written besides what the open partial blobs still lack: in a thread.

        For their sake goes what nobody uses or has pinned. Raises `StoreError`.
        """
        return self._retention.make_room(size)

    def reconfigure(self, cache: CacheSettings) -> None:
        """The store holds so much from now on: what is too much goes soon."""
        self._retention.reconfigure(cache)

    def hold_limits(self) -> None:
        """Give up what is too much, and what is good for nothing, in a thread. Raises `StoreError`."""
        self._partials.clean_up()
        self._retention.hold()

    def sweep(self, *, dry_run: bool) -> list[Victim]:
        """Give up what no manifest needs, and what is above the low watermark; returns what went, or would go.

        To be called in a thread. Raises `StoreError`.
        """
        return self._retention.sweep(dry_run=dry_run)

    def stock(self) -> Stock | None:
        """What there is to decide about; None while files are unverified that may be manifests. Raises `StoreError`."""
        return self._stockroom.stock()

    def figures(self) -> StoreFigures:
        """How full the store is, and when it was checked; looks through all of it. Raises `StoreError`."""
        marks, usage = self._retention.look()
        sizes, oldest = self._inventory.sizes(), self._inventory.longest_unchecked()
        return StoreFigures(
            usage.stored,
            marks.high,
            sum(sizes.get(digest, 0) for digest in self.pinned()) if self._pins.names else 0,
            sum(kept.size for kept in self._quarantine.files().values()),
            marks.disk,
            usage.free,
            marks.free,
            0.0 if oldest is None else time.time() - oldest[2],
        )

    @property
    def evicted(self) -> Mapping[Reason, int]:
        """Bytes that were given up since the start, by what they were."""
        return self._retention.evicted

    def pin(self, digest: Digest, name: str) -> None:
        """Keep a blob and all that it needs, whatever happens; raises `StoreError`."""
        self._pins.add(digest, name)

    def unpin(self, wanted: str) -> list[Digest]:
        """Undo the pins under this name or of this digest; returns the digests that had one. Raises `StoreError`."""
        return self._pins.remove(wanted)

    def pins(self) -> Mapping[Digest, tuple[str, ...]]:
        """What is pinned, under which names."""
        return self._pins.names

    def pinned(self) -> set[Digest]:
        """All blobs that pins keep, whether they are stored or not; looks through all of them."""
        return self._inventory.references().kept_by(self._pins.names)

    def needs(self, digest: Digest) -> set[Digest]:
        """A blob and all that it needs, as far as that is known, whether it is stored or not."""
        return self._inventory.references().kept_by([digest])

    def needed_besides(self, members: Collection[Digest]) -> set[Digest]:
        """What stored manifests besides `members` need; looks through all of them."""
        return self._inventory.references().kept_without(members)

    def is_needed(self, digest: Digest) -> bool:
        """Whether a stored manifest or a pin needs a blob; looks through all of them."""
        references = self._inventory.references()
        return digest in references.needed() or digest in references.kept_by(self._pins.names)

    def note_uses(self) -> None:
        """Have the index know when blobs were used: what was not noted when the process is killed is lost."""
        self._inventory.write_down()

    # --- whether it is still right ------------------------------------------------------------------------------------

    def unverified(self) -> dict[Digest, int]:
        """The files that a start found not to be those that were verified, with their sizes in bytes."""
        return self._inventory.unverified()

    def recheck(self) -> Iterator[tuple[Digest, bool]]:
        """Hash what is unverified, small files first; what is right is served from then on, the rest goes to
        `quarantine/`.
        """
        return self._inspection.recheck()

    def verify(self) -> Iterator[tuple[Digest, bool]]:
        """Hash every finished blob; one that is wrong or cannot be read goes to `quarantine/`. True: it is right."""
        return self._inspection.verify()

    def longest_unchecked(self) -> tuple[Digest, int, float] | None:
        """Of all blobs the one that was hashed the longest time ago: its size in bytes, and that time in seconds."""
        return self._inventory.longest_unchecked()

    def check(self, digest: Digest, pace: Pace) -> bool | None:
        """Hash one blob, which goes to `quarantine/` where it is wrong; None where it is not there any more."""
        return self._inspection.check(digest, pace)

    def _settled(self, partial: Partial, stored: Stamp | None) -> None:
        """A partial blob is left, or with a stamp, in its place: it is in one book at least all the while."""
        if stored is None:
            self._partials.leave(partial, finished=False)
            return
        self._inventory.admit(partial.digest, stored)
        self._partials.leave(partial, finished=True)
        try:
            self._retention.hold()
        except StoreError as error:  # the blob is stored whether or not others can be removed
            log.warning("store.over_limits", error=str(error))

    def _clean_up(self) -> None:
        try:
            self._folder.sweep(lambda digest: self.size(digest) is not None)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            log.warning("store.read_only", root=str(self.root))


def _steady() -> Callable[[], float]:
    """Seconds since the epoch as they were told at the start, and by the monotonic clock from then on."""
    ahead = time.time() - time.monotonic()
    return lambda: time.monotonic() + ahead
