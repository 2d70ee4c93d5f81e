"""Which images a store holds, and how much of each. No I/O: manifests are read by who asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from peer.eviction import Kept, Stock
from peer.references import Image
from shoal.descriptor import InvalidManifest, Manifest, Platform
from shoal.digest import Digest

_MAX_DEPTH = 4
"""Of indexes in indexes."""
_UNKNOWN = "unknown"
"""What build tools call the platform of what is no image, such as an attestation."""

Content = Callable[[Digest], bytes | None]
"""A small blob of the store, None where it is not there."""


class StoredPlatform(msgspec.Struct, frozen=True):
    """One platform's part of an image, or all of what has no platforms."""

    platform: str
    """`linux/arm64/v8`; empty where neither the index nor the configuration tells."""
    digest: Digest
    """Of its manifest."""
    blobs: int
    """That the manifest names."""
    missing: int
    """Of these, those that are not in the store."""
    bytes: int
    """Of the manifest and of its blobs that are in the store."""
    missing_bytes: int


class StoredImage(msgspec.Struct, frozen=True):
    """An image of which the store has the manifest or index that no other one names."""

    references: tuple[str, ...]
    digest: Digest
    platforms: tuple[StoredPlatform, ...]
    """Those whose manifests are in the store."""
    other_platforms: tuple[str, ...]
    """Those that the index offers besides."""
    bytes: int
    """Of all that is in the store of it, signatures and the like included."""
    shared_bytes: int
    """Of these, what other images in the store need too."""
    complete: bool
    """Whether nothing is missing of any platform whose manifest is in the store, and there is one."""
    referrers: int
    """Manifests about it: signatures, SBOMs and the like."""
    pinned: tuple[str, ...]
    """The names under which it was pinned."""
    used: str
    """When something of it was last read or written, as ISO 8601 in UTC."""


class _Config(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""


_CONFIG = msgspec.json.Decoder(_Config)


def stored_images(
    stock: Stock,
    pins: Mapping[Digest, Collection[str]],
    names: Callable[[Sequence[Digest]], Mapping[Digest, Sequence[str]]],
    content: Content,
) -> list[StoredImage]:
    """All images of a store, those used last first. `names`: the references of manifests, as far as they are known."""
    images = list(stock.references.images())
    users = Counter(member for image in images for member in image.members)
    known = names([digest for image in images for digest in image.manifests])
    found = [_Looked(stock.blobs, content).at(image, users, pins, known) for image in images]
    return sorted(found, key=lambda image: image.used, reverse=True)


class _Looked:
    """What is read of one image's manifests."""

    def __init__(self, blobs: Mapping[Digest, Kept], content: Content) -> None:
        self._blobs = blobs
        self._content = content
        self._seen: set[Digest] = set()
        self._absent: list[str] = []

    def at(
        self,
        image: Image,
        users: Mapping[Digest, int],
        pins: Mapping[Digest, Collection[str]],
        names: Mapping[Digest, Sequence[str]],
    ) -> StoredImage:
        platforms = tuple(self._platforms(image.root, None, _MAX_DEPTH))
        stored = {digest: kept for digest in image.members if (kept := self._blobs.get(digest)) is not None}
        own = [image.root, *sorted(self._seen - {image.root})]
        return StoredImage(
            tuple(dict.fromkeys(name for digest in own for name in names.get(digest, ()))),
            image.root,
            platforms,
            tuple(dict.fromkeys(self._absent)),
            sum(kept.size for kept in stored.values()),
            sum(kept.size for digest, kept in stored.items() if users[digest] > 1),
            bool(platforms) and not any(platform.missing for platform in platforms),
            len(image.manifests - self._seen),
            tuple(name for digest in own for name in pins.get(digest, ())),
            _time(max((kept.used for kept in stored.values()), default=0.0)),
        )

    def _platforms(self, digest: Digest, offered: Platform | None, depth: int) -> Iterator[StoredPlatform]:
        """What is stored below one manifest or index."""
        manifest = self._manifest(digest)
        if manifest is None or digest in self._seen:
            return
        self._seen.add(digest)
        for child, platform in manifest.children if depth else ():
            if platform is not None and platform.os == _UNKNOWN:
                self._seen.add(child.digest)
            elif child.digest in self._blobs:
                yield from self._platforms(child.digest, platform, depth - 1)
            elif platform is not None:
                self._absent.append(str(platform))
        if not manifest.blobs:
            return
        missing = [blob for blob in manifest.blobs if blob.digest not in self._blobs]
        parts = {digest, *(blob.digest for blob in manifest.blobs)} & self._blobs.keys()
        yield StoredPlatform(
            str(offered or self._configured(manifest) or ""),
            digest,
            len(manifest.blobs),
            len(missing),
            sum(self._blobs[part].size for part in parts),
            sum(blob.size for blob in missing),
        )

    def _manifest(self, digest: Digest) -> Manifest | None:
        content = self._content(digest)
        try:
            return None if content is None else Manifest.parse(content)
        except InvalidManifest:
            return None

    def _configured(self, manifest: Manifest) -> Platform | None:
        """The platform that an image's configuration names."""
        content = self._content(manifest.blobs[0].digest)
        try:
            config = _CONFIG.decode(content or b"{}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return Platform(config.os, config.architecture, config.variant) if config.os else None


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
