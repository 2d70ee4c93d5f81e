"""The books of finished blobs: which are here, who reads them, when they were used, and what manifests name.

A file of the store is in one of three states. It is *verified* while it is the file that was hashed, and only then it
is served; *unverified* where a start finds that it is another one, until `peer.inspection` has hashed it; or unknown.

    admit      unknown, unverified, verified -> verified    its content was hashed just now
    open       unknown -> verified or unverified            by the index and the file's status
    remove     verified, unverified -> unknown              somebody wants it gone
    give_up    verified -> unknown, unless it is read       for the sake of room
    lose       verified, unverified -> unknown              its file is wrong or gone; its names still count

The index learns of each of these, and a listener of what is unknown from then on.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

from peer.disk import Stamp, open_for_reading
from peer.eviction import Kept
from peer.imagelayout import ImageLayout
from peer.index import Entry, Index, names_in
from peer.references import Names, References
from shoal.descriptor import MAX_MANIFEST_SIZE, BlobKind, InvalidManifest, Manifest
from shoal.digest import Digest, InvalidDigest

log = structlog.get_logger()

_PEEKED = 512
"""Bytes of a file by which most blobs are known to be no manifests."""


class Lost(NamedTuple):
    """A blob that is in the store no more."""

    digest: Digest
    size: int | None
    """Bytes; None where it was never served."""
    kind: BlobKind
    damaged: bool
    """Whether its file was not what it should be, or gone; else it was removed."""


class Verified:
    """A blob's file, and when it was used and hashed last, in seconds of the store's clock."""

    __slots__ = ("checked", "stamp", "used")

    def __init__(self, stamp: Stamp, used: float, checked: float) -> None:
        self.stamp = stamp
        self.used = used
        self.checked = checked


class Snapshot(NamedTuple):
    """The verified blobs of one moment, and what manifests name."""

    blobs: dict[Digest, Kept]
    references: References
    reading: set[Digest]
    """Those that somebody reads."""


Listener = Callable[[Sequence[Lost]], object]


class Inventory:
    """The finished blobs of one store, in memory. Safe to use from several threads.

    Questions take an instant; what changes a blob's state takes as long as the index's file does.
    """

    def __init__(self, layout: ImageLayout, now: Callable[[], float]) -> None:
        """`now`: the store's clock, in seconds."""
        self._layout = layout
        self._now = now
        self._index = Index(layout.root / "index.sqlite")
        self._references = References()
        self._verified: dict[Digest, Verified] = {}
        self._bytes = 0
        """Of all that is verified."""
        self._unverified: dict[Digest, int] = {}
        """With the sizes of their files in bytes."""
        self._reading: Counter[Digest] = Counter()
        self._noted: set[Digest] = set()
        """Those of which the index does not know yet when they were used or checked."""
        self._listener: Listener = _nobody
        self._guard = threading.Lock()  # all of the above, the index aside; held for an instant

    def open(self) -> None:
        """Compare every file with what was verified, by its status alone; raises `StoreError` and `OSError`."""
        indexed, manifests = self._index.open()
        now = self._now()
        for digest, status in self._layout.blobs():
            entry = indexed.pop(digest, None)
            if entry is not None and entry.stamp.fits(status):
                # a time that is still to come is one of a clock that was wrong
                self._replace(digest, Verified(entry.stamp, min(entry.used, now), min(entry.checked, now)))
            else:
                self._unverified[digest] = status.st_size
        self._learn_names(manifests)
        if indexed:
            log.warning("store.missing", blobs=len(indexed))
            self._index.remove(list(indexed))

    def close(self) -> None:
        """Write down what the index does not know yet, and know nothing."""
        self.write_down()
        self._index.close()
        with self._guard:
            self._verified, self._unverified, self._references, self._bytes = {}, {}, References(), 0

    def tell(self, listener: Listener) -> Listener:
        """Tell `listener` of blobs that are here no more, in whatever thread; returns who was told until now."""
        before, self._listener = self._listener, listener
        return before

    # --- what is known ------------------------------------------------------------------------------------------------

    def verified(self, digest: Digest) -> Verified | None:
        """What is known of a blob that may be served; None of others."""
        return self._verified.get(digest)

    def sizes(self) -> dict[Digest, int]:
        """All verified blobs of this moment with their sizes in bytes."""
        return {digest: known.stamp.size for digest, known in list(self._verified.items())}

    def unverified(self) -> dict[Digest, int]:
        """All unverified files of this moment with their sizes in bytes."""
        with self._guard:
            return self._unverified.copy()

    def is_still(self, digest: Digest, known: Verified | None) -> bool:
        """Whether a file is still the verified one that `known` tells of, or where that is None, unverified."""
        return self._verified.get(digest) is known and (known is not None or digest in self._unverified)

    def stored(self) -> int:
        """Bytes of all files, verified or not."""
        with self._guard:
            return self._bytes + sum(self._unverified.values())

    def longest_unchecked(self) -> tuple[Digest, int, float] | None:
        """Of all verified blobs the one that was hashed the longest time ago: its size in bytes, and that time."""
        found = min(list(self._verified.items()), key=lambda entry: entry[1].checked, default=None)
        if found is None:
            return None
        digest, known = found
        return digest, known.stamp.size, max(0.0, self._now() - known.checked)

    def references(self) -> References:
        """What manifests name, at this moment."""
        with self._guard:
            return self._references.copy()

    def snapshot(self) -> Snapshot | None:
        """What is verified at this moment; None while files are unverified that may be manifests."""
        with self._guard:
            if any(size <= MAX_MANIFEST_SIZE for size in self._unverified.values()):
                return None
            blobs = {digest: Kept(known.stamp.size, known.used) for digest, known in self._verified.items()}
            return Snapshot(blobs, self._references.copy(), set(self._reading))

    def counts(self) -> dict[str, int]:
        """How much there is, for the log."""
        return {
            "blobs": len(self._verified),
            "bytes": self._bytes,
            "manifests": len(self._references),
            "unverified": len(self._unverified),
        }

    # --- what happens to a blob ---------------------------------------------------------------------------------------

    def admit(self, digest: Digest, stamp: Stamp) -> None:
        """A blob's file is in place and was hashed. It is read once more where it may be a manifest."""
        names = _named_in(self._layout.path(digest), stamp.size)
        now = self._now()
        self._index.add(digest, Entry(stamp, now, now), names)
        with self._guard:
            self._replace(digest, Verified(stamp, now, now))
            self._unverified.pop(digest, None)
            if names is not None:
                self._references.learn(digest, names)

    def begin_reading(self, digest: Digest, known: Verified) -> None:
        """Somebody reads a verified blob, until `end_reading`."""
        with self._guard:
            known.used = self._now()
            self._noted.add(digest)
            self._reading[digest] += 1

    def end_reading(self, digest: Digest) -> None:
        with self._guard:
            self._reading[digest] -= 1
            if not self._reading[digest]:
                del self._reading[digest]

    def checked(self, digest: Digest, known: Verified) -> None:
        """A verified blob was hashed again, and is right."""
        with self._guard:
            known.checked = self._now()
            self._noted.add(digest)

    def remove(self, digest: Digest) -> int:
        """Whoever reads it goes on to its end. Returns the size in bytes of a verified blob, 0 of others."""
        with self._guard:
            lost = self._take([digest], damaged=False)
        self._pass_on([digest], lost)
        return sum(each.size or 0 for each in lost)

    def give_up(self, root: Digest, digests: Sequence[Digest]) -> Sequence[Lost]:
        """All of these blobs or, where one is read, none; `root` is the manifest that kept them. Returns what went."""
        with self._guard:
            if any(digest in self._reading for digest in digests):
                return ()
            if root not in self._verified:  # it was damaged, and nobody gave it again
                self._references.forget(root)
            lost = self._take(digests, damaged=False)
        self._pass_on(digests, lost)
        return lost

    def lose(self, digest: Digest, known: Verified | None) -> bool:
        """A blob's file is wrong or gone; False, and nothing is done, where it is not still (`is_still`) this file."""
        with self._guard:
            if not self.is_still(digest, known):
                return False
            lost = self._take([digest], damaged=True)
        self._pass_on([digest], lost)
        return True

    def write_down(self) -> None:
        """Have the index know when blobs were used and checked."""
        with self._guard:
            noted, self._noted = self._noted, set()
            entries = {
                digest: Entry(known.stamp, known.used, known.checked)
                for digest in noted
                if (known := self._verified.get(digest)) is not None
            }
        self._index.note(entries)

    def _take(self, digests: Sequence[Digest], *, damaged: bool) -> list[Lost]:
        """To be called with the guard held; `_pass_on` is to follow without it."""
        lost: list[Lost] = []
        for digest in digests:
            known = self._replace(digest, None)
            was_unverified = self._unverified.pop(digest, None) is not None
            if known is not None or was_unverified:
                kind = BlobKind.MANIFEST if digest in self._references else BlobKind.BLOB
                lost.append(Lost(digest, None if known is None else known.stamp.size, kind, damaged))
            if not damaged:  # else its image stays one, since it may be mended
                self._references.forget(digest)
        return lost

    def _pass_on(self, digests: Collection[Digest], lost: Sequence[Lost]) -> None:
        """To the index and the listener, which may take a while."""
        self._index.remove(digests)
        if lost:
            self._listener(lost)

    def _replace(self, digest: Digest, known: Verified | None) -> Verified | None:
        """Returns what was there before."""
        before = self._verified.pop(digest, None)
        if known is not None:
            self._verified[digest] = known
        self._bytes += (0 if known is None else known.stamp.size) - (0 if before is None else before.stamp.size)
        return before

    def _learn_names(self, manifests: Mapping[str, str]) -> None:
        """Content that has a digest names what it names, whether or not the file was changed since."""
        known: dict[str, Digest] = {digest: digest for digest in (*self._verified, *self._unverified)}
        for text, names in manifests.items():
            digest = known.get(text)
            if digest is None:
                continue
            try:
                self._references.learn(digest, names_in(names, known))
            except InvalidDigest as error:
                log.warning("index.damaged", digest=digest, error=str(error))
                before = self._replace(digest, None)
                if before is not None:  # its content tells again
                    self._unverified[digest] = before.stamp.size


def _named_in(path: Path, size: int) -> Names | None:
    """What a stored blob names, where it is a manifest."""
    if size > MAX_MANIFEST_SIZE:
        return None
    try:
        with open(path, "rb", opener=lambda _, flags: open_for_reading(path)) as file:
            if not file.peek(_PEEKED).lstrip().startswith(b"{"):
                return None
            return Names.of(Manifest.parse(file.read(size)))
    except InvalidManifest:
        return None
    except OSError as error:
        log.warning("blob.unreadable", path=str(path), error=str(error))
        return None


def _nobody(_: Sequence[Lost]) -> None:
    """Who is told of lost blobs where nobody asked to be."""
