"""The blob store: an OCI image layout on the disk, with partial blobs beside it.

    oci-layout, index.json       so that standard tools read it
    blobs/ALGORITHM/HEX          finished blobs: verified, synced, then renamed into place
    partial/ALGORITHM-HEX-SIZE.* blobs on their way (`peer.partial`), temporary files
    quarantine/ALGORITHM-HEX     files that are not what was verified under that name
    index.sqlite                 what was verified, what manifests name, when it was used (`peer.index`)
    pins.json                    what is to stay (`peer.pins`)
    lock                         held by the process that has the store open

A blob is served only while its file is the one that was verified, by length, mtime and inode; another one has to be
hashed first. What is given up when there is no room, `peer.retention` decides. File modes are 0644 and 0755 less the
process's umask.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import structlog

from peer.checkpoint import Checkpoint
from peer.disk import (
    FILE_MODE,
    FOLDER_MODE,
    NO_FILE,
    SharedFile,
    Stamp,
    StoreBusy,
    StoreError,
    StoreFull,
    Tampered,
    failing_to,
    open_for_reading,
    open_sparse,
    sync_folder,
    write_durably,
)
from peer.eviction import Kept, Stock, Victim
from peer.index import Entry, Index, names_in
from peer.leftovers import PartialFolder, file_name
from peer.partial import Partial
from peer.pins import Pins
from peer.references import Names, References
from peer.retention import Retention
from peer.settings import DEFAULT_CACHE, CacheSettings
from peer.watched import WatchedFile
from shoal.descriptor import MAX_MANIFEST_SIZE, BlobKey, BlobKind, InvalidManifest, Manifest
from shoal.digest import Digest, InvalidDigest
from shoal.pieces import PieceLayout

__all__ = ["Lost", "Partial", "Store", "StoreBusy", "StoreError", "StoreFull", "StoredBlob", "Tampered"]

log = structlog.get_logger()

ALGORITHMS = ("sha256", "sha512")
_LAYOUT_FILES = {
    "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
    "index.json": b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}',
}


_CHUNK = 1 << 20
_BLOCK = 512
"""Bytes of a block in a file's status, whatever blocks the disk has."""


class Lost(NamedTuple):
    """A blob that is in the store no more."""

    digest: Digest
    size: int | None
    """Bytes; None where it was never served."""
    kind: BlobKind
    damaged: bool
    """Whether its file was not what it should be, or gone; else it was removed."""


class StoredBlob:
    """A finished blob that is open for reading: `size` bytes."""

    def __init__(self, fd: int, size: int, let_go: Callable[[], None] | None = None) -> None:
        """`let_go` is called once, when it is closed."""
        self.size = size
        self._file = SharedFile(fd)
        self._let_go = let_go

    @property
    def fd(self) -> int:
        """For `pread` and `sendfile`, never after `close`; raises `StoreError` once closed."""
        return self._file.fd

    def close(self) -> None:
        self._file.close()
        let_go, self._let_go = self._let_go, None
        if let_go is not None:
            let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_Listener = Callable[[Sequence[Lost]], object]


class _Held:
    """A finished blob: its file, and when it was used and hashed, in seconds of the store's clock."""

    __slots__ = ("checked", "stamp", "used")

    def __init__(self, stamp: Stamp, used: float, checked: float) -> None:
        self.stamp = stamp
        self.used = used
        self.checked = checked


class Store:
    """The blobs of one node. Safe to use from several threads; what it knows of finished blobs is in memory."""

    def __init__(
        self, root: Path, cache: CacheSettings = DEFAULT_CACHE, now: Callable[[], float] | None = None
    ) -> None:
        """`now`: seconds since the epoch, by a clock that never goes back."""
        self.root = root
        self._gone: _Listener = _nobody
        self._now = now or _steady()
        self._partials = PartialFolder(root / "partial", self.path)
        self._quarantine = root / "quarantine"
        self._index = Index(root / "index.sqlite")
        self._pins = Pins(root, self._partials.path)
        self._retention = Retention(cache, root, self, self._now)
        self._references = References()
        self._blobs: dict[Digest, _Held] = {}
        self._bytes = 0
        self._unverified: dict[Digest, int] = {}
        """With the sizes of their files in bytes."""
        self._open_partials: set[BlobKey] = set()
        self._finished: list[Partial] = []
        """Those whose file may still be open, for those who read it since before."""
        self._reading: Counter[Digest] = Counter()
        self._noted: set[Digest] = set()
        """Those of which the index does not know yet when they were used or checked."""
        self._guard = threading.Lock()  # all of the above; held for an instant
        self._opening = threading.Lock()  # one partial blob is opened or removed at a time
        self._lock: int | None = None

    def open(self) -> None:
        """Make the folders, take the lock, clean up after a crash and read what is there.

        Raises `StoreBusy` where another process has the store open, else `StoreError`.
        """
        with failing_to(f"open the store {self.root}"):
            self.root.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
            self._lock = self._take_lock()
            try:
                self._lay_out()
                self._pins.load()
                self._read_blobs()
                self._clean_up()
            except BaseException:
                self.close()
                raise
        log.info(
            "store.opened",
            root=str(self.root),
            blobs=len(self._blobs),
            bytes=self._bytes,
            manifests=len(self._references),
            pins=len(self._pins.names),
            unverified=len(self._unverified),
        )

    def close(self) -> None:
        """Give the lock back. Partial blobs are closed by those who opened them, before."""
        self.note_uses()
        self._index.close()
        self._blobs, self._unverified, self._references, self._bytes = {}, {}, References(), 0
        self._finished.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def tell(self, listener: _Listener) -> _Listener:
        """Tell `listener` of blobs that are there no more, in whatever thread that is found or done.

        Returns who was told until now.
        """
        before, self._gone = self._gone, listener
        return before

    def path(self, digest: Digest) -> Path:
        """Where the finished blob is, or will be."""
        return self.root / "blobs" / digest.algorithm / digest.hex

    def size(self, digest: Digest) -> int | None:
        """Bytes of a finished blob, None where it is not here."""
        held = self._blobs.get(digest)
        return None if held is None else held.stamp.size

    def digests(self) -> Iterator[tuple[Digest, int]]:
        """All finished blobs of this moment with their sizes in bytes."""
        return iter([(digest, held.stamp.size) for digest, held in list(self._blobs.items())])

    def open_blob(self, digest: Digest) -> StoredBlob | None:
        """A finished blob to read from, None where it is not here.

        Where its file is gone, or is not the one that was verified, the blob is not here any more, and the file goes to
        `quarantine/`. Raises `StoreError` where the file cannot be opened.
        """
        known = self._blobs.get(digest)
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
                    known.used = self._now()
                    with self._guard:
                        self._noted.add(digest)
                        self._reading[digest] += 1
                    return StoredBlob(fd, known.stamp.size, lambda: self._let_go(digest))
                os.close(fd)
        self._drop(digest, known, "it is not the file that was verified")
        return None

    def condemn(self, digest: Digest, reason: str) -> None:
        """Serve a finished blob no longer, of which the file cannot be read; it goes to `quarantine/`.

        Raises `StoreError` where it cannot be moved; it is not served all the same.
        """
        known = self._blobs.get(digest)
        if known is not None:
            self._drop(digest, known, reason)

    def remove(self, digest: Digest) -> int:
        """Have a finished blob no longer; returns its size in bytes, 0 where it was not here. Raises `StoreError`.

        Whoever reads it goes on to its end.
        """
        known = self._forget([digest]).get(digest)
        with failing_to(f"remove {digest}"):
            self.path(digest).unlink(missing_ok=True)
        return 0 if known is None else known.stamp.size

    def partial(self, key: BlobKey) -> Partial:
        """A blob to be filled, with the pieces that were left.

        Where the data was changed after the checkpoint, as in a crash, they are read back and those that are not right
        are dropped: to be called in a thread. Raises `StoreError` where it is open already, `StoreFull`, and
        `ValueError` for a size out of bounds.
        """
        layout = PieceLayout.of(key.size)
        with self._opening:
            if self._lock is None:
                raise StoreError("the store is not open")
            if key in self._open_partials:
                raise StoreError(f"{key.digest} is being written already")
            self._open_partials.add(key)
        files = self._partials.files(key)
        try:
            with failing_to(f"open {files.data}"):
                start = self._partials.resume(key) or Checkpoint(key.digest, layout, 0, {}, 0)
                file = WatchedFile(open_sparse(files.data, key.size, keep=start.have != 0), key.digest)
                partial = Partial(files, file, start, lambda stored: self._settled(partial, stored))
            if start.have and file.left.mtime_ns != start.mtime_ns:
                unproven = partial.unproven()
                log.info("partial.reread", digest=key.digest, dropped=unproven.bit_count())
                partial.discard(unproven)
        except BaseException:
            self._open_partials.discard(key)
            raise
        return partial

    def resumable(self) -> list[BlobKey]:
        """The blobs of which pieces were left; what is not to be trusted is removed."""
        found = self._partials.begun()
        return [key for key in found if key not in self._open_partials and self._partials.resume(key)]

    def put(self, digest: Digest, content: bytes) -> None:
        """Store a small blob; raises `StoreError` where `content` has another digest, and `StoreFull`."""
        hasher = digest.hasher()
        hasher.update(content)
        if not digest.matches(hasher):
            raise StoreError(f"the content is not that of {digest}")
        if digest in self._blobs:
            return
        with failing_to(f"store {digest}"):
            stamp = write_durably(self.path(digest), content, by_way_of=self._partials.path)
        self._admit(digest, stamp)
        self._retention.hold()

    # --- what stays and what goes (`peer.retention`) ------------------------------------------------------------------

    def fits(self, size: int) -> bool:
        """Whether a blob of `size` bytes can be kept at all, with everything else gone. Raises `StoreError`."""
        return self._retention.fits(size)

    def make_room(self, size: int) -> bool:
        """Whether `size` bytes may be written besides what the open partial blobs still lack: in a thread.

        For their sake goes what nobody uses or has pinned. Raises `StoreError`.
        """
        return self._retention.make_room(size)

    def hold_limits(self) -> None:
        """Give up what is too much, in a thread. Raises `StoreError`."""
        self._retention.hold()

    def sweep(self, *, dry_run: bool) -> list[Victim]:
        """Give up what no manifest needs, and what is above the low watermark; returns what went, or would go.

        To be called in a thread. Raises `StoreError`.
        """
        return self._retention.sweep(dry_run=dry_run)

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
        return self._references.copy().kept_by(self._pins.names)

    def needs(self, digest: Digest) -> set[Digest]:
        """A blob and all that it needs, as far as that is known, whether it is stored or not."""
        return self._references.copy().kept_by([digest])

    def is_needed(self, digest: Digest) -> bool:
        """Whether a stored manifest or a pin needs a blob; looks through all of them."""
        references = self._references.copy()
        return digest in references.needed() or digest in references.kept_by(self._pins.names)

    def note_uses(self) -> None:
        """Have the index know when blobs were used: what was not noted when the process is killed is lost."""
        with self._guard:
            noted, self._noted = self._noted, set()
            entries = {
                digest: Entry(held.stamp, held.used, held.checked)
                for digest in noted
                if (held := self._blobs.get(digest)) is not None
            }
        self._index.note(entries)

    def stock(self) -> Stock | None:
        """What there is to decide about; None while files are unverified that may be manifests."""
        with self._guard:
            if any(size <= MAX_MANIFEST_SIZE for size in self._unverified.values()):
                return None
            self._finished = [partial for partial in self._finished if not partial.is_closed]
            reading = {*self._reading, *(partial.digest for partial in self._finished)}
            writing = {key.digest for key in self._open_partials}
            blobs = {digest: Kept(held.stamp.size, held.used) for digest, held in self._blobs.items()}
            references = self._references.copy()
        return Stock(blobs, self._quarantined(), self._parked(), references, self._pins.names.keys(), reading, writing)

    def held(self) -> tuple[int, int]:
        """Bytes of all blobs, open partial ones counted as complete; and bytes that these still lack on the disk."""
        with self._guard:
            underway = list(self._open_partials)
            stored = self._bytes + sum(self._unverified.values())
        lacking = sum(max(0, key.size - _allocated(self._partials.files(key).data)) for key in underway)
        aside = sum(kept.size for found in (self._parked(), self._quarantined()) for kept in found.values())
        return stored + aside + sum(key.size for key in underway), lacking

    def give_up(self, victim: Victim) -> int:
        """Remove what a victim consists of, unless something of it is in use by now; returns the bytes.

        Raises `StoreError`.
        """
        if victim.reason == "partial":
            (key,) = victim.blobs
            with self._opening, failing_to(f"remove {key.digest}"):
                if key in self._open_partials:
                    return 0
                self._partials.remove(key)
            return victim.size
        if victim.reason == "quarantined":
            with failing_to(f"remove {victim.root} from quarantine"):
                (self._quarantine / file_name(victim.root)).unlink(missing_ok=True)
            return victim.size
        with self._guard:
            if any(key.digest in self._reading for key in victim.blobs):
                return 0
            if victim.root not in self._blobs:  # it was damaged, and nobody gave it again
                self._references.forget(victim.root)
        given_up = self._forget([key.digest for key in victim.blobs])
        for digest in given_up:
            with failing_to(f"remove {digest}"):
                self.path(digest).unlink(missing_ok=True)
        return sum(held.stamp.size for held in given_up.values())

    # --- whether it is still right ------------------------------------------------------------------------------------

    def unverified(self) -> int:
        """How many files were found at the start that are not those that were verified; `recheck` hashes them."""
        return len(self._unverified)

    def unverified_sizes(self) -> dict[Digest, int]:
        """These files, with their sizes in bytes."""
        return dict(self._unverified)

    def recheck(self) -> Iterator[tuple[Digest, bool]]:
        """Hash what is unverified, small files first; what is right is served from then on, the rest goes to
        `quarantine/`.
        """
        return self._hash_all(self._unverified, sorted(self._unverified, key=self._unverified.__getitem__))

    def verify(self) -> Iterator[tuple[Digest, bool]]:
        """Hash every finished blob; one that is wrong or cannot be read goes to `quarantine/`. True: it is right."""
        return self._hash_all(self._blobs, list(self._blobs))

    def longest_unchecked(self) -> tuple[Digest, int, float] | None:
        """Of all blobs the one that was hashed the longest time ago: its size in bytes, and that time in seconds."""
        found = min(list(self._blobs.items()), key=lambda entry: entry[1].checked, default=None)
        if found is None:
            return None
        digest, held = found
        return digest, held.stamp.size, max(0.0, self._now() - held.checked)

    def check(self, digest: Digest, pace: Callable[[int], None]) -> bool | None:
        """Hash one blob, which goes to `quarantine/` where it is wrong; None where it is not there any more.

        `pace` is called with the number of bytes after each that were read, and may raise to give up.
        """
        for _, right in self._hash_all(self._blobs, [digest], pace):
            return right
        return None

    def _hash_all(
        self,
        candidates: Collection[Digest],
        digests: Sequence[Digest],
        pace: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[Digest, bool]]:
        for digest in digests:
            if digest not in candidates:
                continue
            known = self._blobs.get(digest)
            try:
                stamp = _stamp_if_right(self.path(digest), digest, pace)
            except OSError as error:
                log.error("blob.unreadable", digest=digest, error=str(error))
                stamp = None
            if stamp is None:
                if self._drop(digest, known, "its content is wrong"):
                    yield digest, False
            elif self._is_still(digest, known):
                if known is None or stamp != known.stamp:
                    self._admit(digest, stamp)
                else:
                    known.checked = self._now()
                    with self._guard:
                        self._noted.add(digest)
                yield digest, True

    # --- the books ----------------------------------------------------------------------------------------------------

    def _settled(self, partial: Partial, stored: Stamp | None) -> None:
        if stored is not None:
            self._admit(partial.digest, stored)
            with self._guard:
                self._finished = [*(each for each in self._finished if not each.is_closed), partial]
        self._open_partials.discard(partial.key)
        if stored is not None:
            self._hold_quietly()

    def _hold_quietly(self) -> None:
        """A blob is stored whether or not others can be removed."""
        try:
            self._retention.hold()
        except StoreError as error:
            log.warning("store.over_limits", error=str(error))

    def _admit(self, digest: Digest, stamp: Stamp) -> None:
        names = _names_in(self.path(digest), stamp.size)
        now = self._now()
        self._index.add(digest, Entry(stamp, now, now), names)
        with self._guard:
            self._replace(digest, _Held(stamp, now, now))
            self._unverified.pop(digest, None)
            if names is not None:
                self._references.learn(digest, names)

    def _replace(self, digest: Digest, held: _Held | None) -> _Held | None:
        """Returns what was there before."""
        before = self._blobs.pop(digest, None)
        if held is not None:
            self._blobs[digest] = held
        self._bytes += (0 if held is None else held.stamp.size) - (0 if before is None else before.stamp.size)
        return before

    def _forget(self, digests: Sequence[Digest], *, damaged: bool = False) -> dict[Digest, _Held]:
        """Have blobs no longer, and tell so; returns those that were served."""
        forgotten: dict[Digest, _Held] = {}
        lost: list[Lost] = []
        with self._guard:
            for digest in digests:
                held = self._replace(digest, None)
                was_unverified = self._unverified.pop(digest, None) is not None
                if held is not None:
                    forgotten[digest] = held
                if held is not None or was_unverified:
                    kind = BlobKind.MANIFEST if digest in self._references else BlobKind.BLOB
                    lost.append(Lost(digest, None if held is None else held.stamp.size, kind, damaged))
                if not damaged:  # else its image stays one, since it may be mended
                    self._references.forget(digest)
        self._index.remove(digests)
        if lost:
            self._gone(lost)
        return forgotten

    def _let_go(self, digest: Digest) -> None:
        """Somebody reads a blob no longer."""
        with self._guard:
            self._reading[digest] -= 1
            if not self._reading[digest]:
                del self._reading[digest]

    def _parked(self) -> dict[BlobKey, Kept]:
        """Partial blobs that nobody has open; raises `StoreError`."""
        return {key: kept for key, kept in self._partials.sizes().items() if key not in self._open_partials}

    def _quarantined(self) -> dict[Digest, Kept]:
        """Files that were put aside; raises `StoreError`."""
        found: dict[Digest, Kept] = {}
        with failing_to(f"read {self._quarantine}"), os.scandir(self._quarantine) as entries:
            for entry in entries:
                with contextlib.suppress(InvalidDigest, FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        found[Digest(entry.name.replace("-", ":", 1))] = Kept(status.st_size, status.st_mtime)
        return found

    def _is_still(self, digest: Digest, known: _Held | None) -> bool:
        """False where a blob was deleted or replaced since `known` was had of it, which an unverified one has not."""
        return self._blobs.get(digest) is known and (known is not None or digest in self._unverified)

    def _drop(self, digest: Digest, known: _Held | None, reason: str) -> bool:
        """Serve a blob no longer and move its file away, if there is one; False where it is another one by now."""
        if not self._is_still(digest, known):
            return False
        self._forget([digest], damaged=True)
        with failing_to(f"quarantine {digest}"):
            try:
                self.path(digest).rename(self._quarantine / file_name(digest))
            except FileNotFoundError:
                log.error("blob.missing", digest=digest)
                return True
        log.error("blob.quarantined", digest=digest, reason=reason)
        return True

    def _clean_up(self) -> None:
        try:
            self._partials.sweep(lambda digest: digest in self._blobs)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            log.warning("store.read_only", root=str(self.root))

    def _take_lock(self) -> int:
        path = self.root / "lock"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            if error.errno not in {errno.EROFS, errno.ENOSPC}:
                raise
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # what is stored can be served all the same
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if isinstance(error, BlockingIOError):
                raise StoreBusy(f"the store {self.root} is in use by another process") from None
            raise
        return fd

    def _lay_out(self) -> None:
        for folder in (self._partials.path, self._quarantine, *(self.root / "blobs" / name for name in ALGORITHMS)):
            folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        for name, content in _LAYOUT_FILES.items():
            if not (self.root / name).exists():
                write_durably(self.root / name, content, by_way_of=self._partials.path)
        sync_folder(self.root / "blobs")
        sync_folder(self.root)

    def _read_blobs(self) -> None:
        """Compare every file with what was verified, by its status alone."""
        indexed, manifests = self._index.open()
        now = self._now()
        for digest, status in self._scan():
            entry = indexed.pop(digest, None)
            if entry is not None and entry.stamp.fits(status):
                # a time that is still to come is one of a clock that was wrong
                self._replace(digest, _Held(entry.stamp, min(entry.used, now), min(entry.checked, now)))
            else:
                self._unverified[digest] = status.st_size
        self._learn_names(manifests)
        if indexed:
            log.warning("store.missing", blobs=len(indexed))
            self._index.remove(list(indexed))

    def _learn_names(self, manifests: Mapping[str, str]) -> None:
        """Content that has a digest names what it names, whether or not the file was changed since."""
        known: dict[str, Digest] = {digest: digest for digest in (*self._blobs, *self._unverified)}
        for text, names in manifests.items():
            digest = known.get(text)
            if digest is None:
                continue
            try:
                self._references.learn(digest, names_in(names, known))
            except InvalidDigest as error:
                log.warning("index.damaged", digest=digest, error=str(error))
                held = self._replace(digest, None)
                if held is not None:  # its content tells again
                    self._unverified[digest] = held.stamp.size

    def _scan(self) -> Iterator[tuple[Digest, os.stat_result]]:
        for algorithm in ALGORITHMS:
            with os.scandir(self.root / "blobs" / algorithm) as entries:
                for entry in entries:
                    try:
                        digest = Digest(f"{algorithm}:{entry.name}")
                    except InvalidDigest:
                        log.warning("store.ignored", path=entry.path)
                        continue
                    if entry.is_file(follow_symlinks=False):
                        yield digest, entry.stat(follow_symlinks=False)


def _stamp_if_right(path: Path, digest: Digest, pace: Callable[[int], None]) -> Stamp | None:
    """What tells the file, where its content has this digest and did not change while it was hashed."""
    with open(path, "rb", buffering=0, opener=lambda _, flags: open_for_reading(path)) as file:
        stamp = Stamp.of(os.fstat(file.fileno()))
        hasher, chunk = digest.hasher(), bytearray(_CHUNK)
        while count := file.readinto(chunk):
            hasher.update(memoryview(chunk)[:count])
            pace(count)
        return stamp if digest.matches(hasher) and stamp.fits(os.fstat(file.fileno())) else None


def _names_in(path: Path, size: int) -> Names | None:
    """What a stored blob names, where it is a manifest."""
    if size > MAX_MANIFEST_SIZE:
        return None
    try:
        with open(path, "rb", opener=lambda _, flags: open_for_reading(path)) as file:
            if not file.peek(_BLOCK).lstrip().startswith(b"{"):
                return None
            return Names.of(Manifest.parse(file.read(size)))
    except InvalidManifest:
        return None
    except OSError as error:
        log.warning("blob.unreadable", path=str(path), error=str(error))
        return None


def _allocated(path: Path) -> int:
    """Bytes of the disk that a file takes; 0 where there is none."""
    try:
        return path.lstat().st_blocks * _BLOCK
    except OSError:
        return 0


def _steady() -> Callable[[], float]:
    """Seconds since the epoch as they were told at the start, and by the monotonic clock from then on."""
    ahead = time.time() - time.monotonic()
    return lambda: time.monotonic() + ahead


def _nobody(_: Sequence[Lost]) -> None:
    """Who is told of lost blobs where nobody asked to be."""
