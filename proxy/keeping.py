"""What an operator decides about a store, a running daemon's or one at rest: what stays in it, and what goes now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import structlog

from peer.eviction import Victim
from peer.store import Store
from proxy.catalogue import KnownTag
from shoal.changes import OrderRefused
from shoal.digest import Digest, InvalidDigest
from shoal.reference import Location, Reference, Tag

log = structlog.get_logger()

LastKnown = Callable[[Location, Tag | Digest], Digest | None]
"""The digest of what was last known of a reference."""


class Keeping:
    """Pins and sweeps of one open store. All calls belong in a thread, and raise `StoreError`."""

    def __init__(self, store: Store, last_known: LastKnown) -> None:
        self._store = store
        self._last_known = last_known

    def pin(self, image: str) -> dict[str, object]:
        """Keep an image, by its reference or digest, whatever happens; raises `OrderRefused`, `InvalidReference`."""
        name, digest = self._resolve(image)
        if digest is None or self._store.size(digest) is None:
            raise OrderRefused(f"{name} is not in the store: pull it first")
        self._store.pin(digest, name)
        needs = self._store.needs(digest)
        sizes = [size for each in needs if (size := self._store.size(each)) is not None]
        log.info("image.pinned", image=name, digest=digest)
        return {"pinned": name, "digest": digest, "stored": len(sizes), "named": len(needs), "bytes": sum(sizes)}

    def unpin(self, image: str) -> dict[str, object]:
        """Let an image go when it is its turn; raises `OrderRefused` where it is not pinned, `InvalidReference`."""
        name, digest = self._resolve(image)
        found = self._store.unpin(name) or (self._store.unpin(digest) if digest is not None else [])
        if not found:
            raise OrderRefused(f"{name} is not pinned")
        log.info("image.unpinned", image=name, digests=len(found))
        return {"unpinned": name, "digests": sorted(found)}

    def sweep(self, dry_run: bool) -> dict[str, object]:
        """Remove what no manifest needs, and what is above the low watermark; raises `OrderRefused`."""
        waiting = len(self._store.unverified())
        if waiting and self._store.stock() is None:
            raise OrderRefused(f"{waiting} files of the store are not hashed yet, of which some may be manifests")
        gone = self._store.sweep(dry_run=dry_run)
        return {"dry_run": dry_run, "removed": list(map(_described, gone)), "bytes": sum(each.size for each in gone)}

    def _resolve(self, image: str) -> tuple[str, Digest | None]:
        """An image's full name, and its digest where it is known; raises `InvalidReference`."""
        try:
            digest = Digest(image)
        except InvalidDigest:
            reference = Reference.parse(image)
            return str(reference), self._last_known(
                Location(reference.registry, reference.repository), reference.target
            )
        return str(digest), digest


def last_known_of(tags: Iterable[KnownTag]) -> LastKnown:
    """What a catalogue of a node at rest knows."""
    plain_last = sorted(tags, key=lambda known: not known.accept)  # the answer to clients that take every kind counts
    known = {(each.location, each.tag): each.descriptor.digest for each in plain_last}

    def last_known(location: Location, reference: Tag | Digest) -> Digest | None:
        return reference if isinstance(reference, Digest) else known.get((location, reference))

    return last_known


def _described(victim: Victim) -> dict[str, Any]:
    blobs = [key.digest for key in victim.blobs]
    return {"reason": victim.reason, "digest": victim.root, "blobs": blobs, "bytes": victim.size}
