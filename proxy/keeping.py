"""What an operator decides about a store, a running daemon's or one at rest: what stays in it, and what goes now.

And what he sees of it, to decide by.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import msgspec
import structlog

from peer.eviction import Stock, Victim
from peer.store import Store
from proxy.catalogue import KnownTag
from proxy.images import StoredImage, stored_images
from shoal.changes import OrderRefused
from shoal.descriptor import MAX_MANIFEST_SIZE
from shoal.digest import Digest, InvalidDigest
from shoal.reference import Location, Reference, Tag
from supernode.report import MAX_IMAGES, MAX_NAMES, HeldImage

log = structlog.get_logger()

LastKnown = Callable[[Location, Tag | Digest], Digest | None]
"""The digest of what was last known of a reference."""


class Name(NamedTuple):
    """What a person calls an image: a reference, or a digest alone, which has no location."""

    text: str
    location: Location | None
    target: Tag | Digest

    @classmethod
    def parse(cls, image: str) -> Self:
        """Raises `InvalidReference`."""
        try:
            digest = Digest(image)
        except InvalidDigest:
            reference = Reference.parse(image)
            return cls(str(reference), Location(reference.registry, reference.repository), reference.target)
        return cls(str(digest), None, digest)


Repositories = Callable[[Sequence[Digest]], Mapping[Digest, Sequence[Location]]]
"""Where manifests are known to be from."""


class Keeping:
    """What one open store keeps. All calls belong in a thread, and raise `StoreError`."""

    def __init__(self, store: Store, last_known: LastKnown, repositories: Repositories) -> None:
        self._store = store
        self._last_known = last_known
        self._repositories = repositories

    def images(self, tags: Iterable[tuple[Location, Tag, Digest]]) -> dict[str, Any]:
        """All images in the store (`proxy.images`). `tags`: what is known of any; raises `OrderRefused`."""
        return {"images": msgspec.to_builtins(self._images(tags), enc_hook=str)}

    def held(self, tags: Iterable[tuple[Location, Tag, Digest]]) -> list[HeldImage]:
        """The same as the supernode is told of them; none while that is not known yet."""
        try:
            images = self._images(tags)
        except OrderRefused:
            return []
        return [
            HeldImage(image.digest, image.bytes, image.complete, bool(image.pinned), list(image.references[:MAX_NAMES]))
            for image in images[:MAX_IMAGES]
        ]

    def _images(self, tags: Iterable[tuple[Location, Tag, Digest]]) -> list[StoredImage]:
        names = defaultdict(list)
        for location, tag, digest in tags:
            names[digest].append(str(Reference(location.registry, location.repository, tag, None)))

        def named(manifests: Sequence[Digest]) -> Mapping[Digest, Sequence[str]]:
            untagged = [digest for digest in manifests if digest not in names]
            for digest, places in self._repositories(untagged).items():
                names[digest] = [str(Reference(at.registry, at.repository, None, digest)) for at in places]
            return {digest: sorted(set(names[digest])) for digest in manifests if digest in names}

        store = self._store
        return stored_images(self._stock(), store.pins(), named, lambda digest: store.peek(digest, MAX_MANIFEST_SIZE))

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

    def remove(self, image: str) -> dict[str, Any]:
        """Remove an image, by its reference or digest, but what others need.

        Raises `OrderRefused` for one that is pinned, or not known at all, and `InvalidReference`.
        """
        name, digest = self._resolve(image)
        self._stock()
        if digest is None:
            raise OrderRefused(f"{name} is not in the store")
        pinned = self._store.pinned()
        if digest in pinned:
            raise OrderRefused(f"{name} is pinned: unpin it first")
        members = self._store.needs(digest)
        needed = self._store.needed_besides(members)
        stored = [each for each in sorted(members) if self._store.size(each) is not None]
        going = [each for each in stored if each not in needed | pinned]
        sizes = [self._store.remove(each) for each in going]
        log.info("image.removed", image=name, blobs=len(going), size=sum(sizes))
        return {
            "removed": going,
            "bytes": sum(sizes),
            "kept_by_pins": [each for each in stored if each in pinned],
            "kept_by_images": [each for each in stored if each in needed - pinned],
        }

    def sweep(self, dry_run: bool) -> dict[str, object]:
        """Remove what no manifest needs, and what is above the low watermark; raises `OrderRefused`."""
        self._stock()
        gone = self._store.sweep(dry_run=dry_run)
        return {"dry_run": dry_run, "removed": list(map(_described, gone)), "bytes": sum(each.size for each in gone)}

    def _stock(self) -> Stock:
        stock = self._store.stock()
        if stock is None:
            waiting = len(self._store.unverified())
            raise OrderRefused(f"{waiting} files of the store are not hashed yet, of which some may be manifests")
        return stock

    def _resolve(self, image: str) -> tuple[str, Digest | None]:
        """An image's full name, and its digest where it is known; raises `InvalidReference`."""
        name = Name.parse(image)
        digest = name.target if name.location is None else self._last_known(name.location, name.target)
        return name.text, Digest(digest) if digest is not None else None


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
