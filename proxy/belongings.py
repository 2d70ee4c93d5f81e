"""What belongs to an image: manifests for the platforms that are wanted, what these name, and what refers to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from peer.origin import OriginNotFound
from proxy.reading import ImageReader
from shoal.descriptor import BlobKind, Descriptor, InvalidManifest, Manifest
from shoal.digest import Digest
from shoal.platforms import ALL_PLATFORMS, manifest_for, offered_by, own_platform, parse_platform
from shoal.reference import Location, Tag

log = structlog.get_logger()

_MAX_REFERRERS, _REFERRER_DEPTH = 64, 2
"""Manifests that refer to an image or to one of these, and how far that goes: a signature of an SBOM of an image."""
_INDEX_DEPTH = 4
"""Indexes of which each is named by the one before."""
_MAX_BLOBS = 1 << 16


class Unfit(Exception):
    """An image cannot be preheated as it is wanted."""


@dataclass(eq=False)
class Belongings:
    """What is known so far of one image. It grows while manifests are read, all of which are stored then.

    What gathers raises `OriginError`, `DownloadFailed`, `InvalidManifest` and `Unfit`.
    """

    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    """All that belongs to the image, manifests too."""
    referrers: int = 0
    """How many manifests refer to it."""

    async def gather(
        self, images: ImageReader, location: Location, reference: Tag | Digest, platforms: Sequence[str]
    ) -> Descriptor:
        """What a reference stands for, for these platforms or else this machine's own; returns its descriptor."""
        return await self._gather(images, location, reference, platforms, 1)

    async def gather_referrers(self, images: ImageReader, location: Location) -> None:
        """Signatures, SBOMs and the like of all manifests that were gathered."""
        subjects = [blob.digest for blob in self.blobs.values() if blob.kind is BlobKind.MANIFEST]
        for _ in range(_REFERRER_DEPTH):
            found = [each for subject in subjects for each in await images.referrers(location, subject)]
            subjects = []
            for each in found:
                subjects += await self._add_referrer(images, location, each)

    async def _gather(
        self, images: ImageReader, location: Location, reference: Tag | Digest, platforms: Sequence[str], depth: int
    ) -> Descriptor:
        found, manifest = await images.manifest(location, reference)
        if manifest.children and depth > _INDEX_DEPTH:
            raise Unfit(f"more than {_INDEX_DEPTH} indexes stand one below the other")
        self._add(found, manifest)
        for child in _chosen(manifest, platforms):
            if child.digest not in self.blobs:  # several indexes may name one
                await self._gather(images, location, child.digest, platforms, depth + 1)
        return found

    def _add(self, found: Descriptor, manifest: Manifest) -> None:
        for blob in (found, *manifest.blobs):
            self.blobs.setdefault(blob.digest, blob)
        if len(self.blobs) > _MAX_BLOBS:
            raise Unfit(f"more than {_MAX_BLOBS} blobs belong to it")

    async def _add_referrer(self, images: ImageReader, location: Location, reference: Tag | Digest) -> list[Digest]:
        """Returns the manifests that there are under a name, without those that were known already."""
        named = await _referrer(images, location, reference, is_sure=isinstance(reference, Digest))
        if named is None:
            return []
        fresh = self._refers(*named)
        # of the index that stands in for a list of referrers
        listed = [child.digest for child, _ in named[1].children if child.digest not in self.blobs]
        _bound(self.referrers + len(listed))
        for digest in listed:
            found = await _referrer(images, location, digest, is_sure=False)
            fresh += [] if found is None else self._refers(*found)
        return fresh

    def _refers(self, found: Descriptor, manifest: Manifest) -> list[Digest]:
        """Count a manifest in; returns its digest where that is new."""
        if found.digest in self.blobs:
            return []
        _bound(self.referrers + 1)
        self._add(found, manifest)
        self.referrers += 1
        return [found.digest]


async def _referrer(
    images: ImageReader, location: Location, reference: Tag | Digest, *, is_sure: bool
) -> tuple[Descriptor, Manifest] | None:
    """None where there is none after all, unless the registry has said so (`is_sure`), and for what nobody can tell
    what belongs to."""
    try:
        return await images.manifest(location, reference)
    except OriginNotFound:
        if is_sure:
            raise
    except InvalidManifest as error:
        log.info("preheat.referrer_unknown", location=str(location), reference=reference, error=str(error))
    return None


def _bound(referrers: int) -> None:
    """Raises `Unfit` where so many manifests are about one image that nobody has pushed them for clients."""
    if referrers > _MAX_REFERRERS:
        raise Unfit(f"more than {_MAX_REFERRERS} manifests refer to it (`referrers` may be left out)")


def _chosen(manifest: Manifest, platforms: Iterable[str]) -> list[Descriptor]:
    """The manifests of an index that are wanted; raises `Unfit`. Where it names no platforms it is none of an image for
    several, as a list of signatures: all of it belongs together."""
    wanted = list(platforms)
    if ALL_PLATFORMS in wanted or not any(offered for _, offered in manifest.children):
        return list(dict.fromkeys(child for child, _ in manifest.children))
    chosen: dict[Descriptor, None] = {}
    for platform in map(parse_platform, wanted) if wanted else [own_platform()]:
        child = manifest_for(manifest, platform)
        if child is None:
            raise Unfit(f"there is no image for {platform} (there is: {offered_by(manifest)})")
        chosen[child] = None
    return list(chosen)
