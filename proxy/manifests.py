"""Manifests to clients: by tag or by digest, read once here so that the engine knows the image's blobs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

from aiohttp import hdrs, web

from peer.errors import DownloadFailed
from peer.origin import OriginError, OriginNotFound, SizeDiffers
from proxy.naming import ManifestTarget
from proxy.responses import UNKNOWN_TYPE, Call, content_headers, not_modified
from proxy.source import BlobSource
from proxy.tags import Resolution, TagResolver
from shoal.descriptor import MAX_MANIFEST_SIZE, BlobKind, Descriptor, InvalidManifest, Manifest
from shoal.digest import Digest
from shoal.reference import Location, Tag

_STALE: Mapping[str, str] = {"Warning": '110 - "Response is Stale"'}


class ManifestFrontend:
    """Answers `/v2/NAME/manifests/REFERENCE`."""

    def __init__(self, source: BlobSource, tags: TagResolver) -> None:
        self._source = source
        self._tags = tags

    async def answer(self, call: Call, target: ManifestTarget) -> None:
        """GET and HEAD; HEAD begins no download. Raises `OriginError` or `DownloadFailed`."""
        request, location = call.request, target.location
        resolution = await self._resolve(target)
        found = resolution.descriptor
        marks = _STALE if resolution.stale else {}
        unchanged = not_modified(request, found.digest)
        if unchanged is not None:
            unchanged.headers.update(marks)
            await call.send(unchanged)
            return
        if request.method == hdrs.METH_HEAD:
            media_type = await self._media_type(found, location)
            headers = {**content_headers(found.digest, media_type, found.size), **marks}
            await call.send(web.Response(headers=headers))
            return
        source, content = await self._read(resolution, target)
        media_type = await self._learn(content, found, location)
        headers = {**content_headers(found.digest, media_type, len(content)), **marks}
        if await call.send(web.Response(body=content, headers=headers)):
            call.count(source, len(content))

    async def _resolve(self, target: ManifestTarget) -> Resolution:
        location, reference = target.location, target.reference
        known = self._source.known(reference, location) if isinstance(reference, Digest) else None
        if known is None:
            resolution = await self._tags.resolve(location, reference, BlobKind.MANIFEST)
            stored = self._source.stored(resolution.descriptor.digest)
            if stored is not None:
                resolution = replace(resolution, descriptor=replace(resolution.descriptor, size=stored), named=True)
        else:
            resolution = Resolution(replace(known, kind=BlobKind.MANIFEST), named=True)
        _check_size(reference, resolution.descriptor.size)
        return resolution

    async def _read(self, resolution: Resolution, target: ManifestTarget) -> tuple[str, bytes]:
        """Where a manifest came from, and its bytes."""
        found = resolution.descriptor
        try:
            return await self._content(found, target.location)
        except SizeDiffers as error:
            if resolution.named:
                raise
            _check_size(target.reference, error.size)
            self._tags.correct(target.location, target.reference, found, error.size)
            return await self._content(replace(found, size=error.size), target.location)

    async def _content(self, found: Descriptor, location: Location) -> tuple[str, bytes]:
        async with await self._source.open(found, location) as opened:
            return opened.source, await opened.content()

    async def _media_type(self, found: Descriptor, location: Location) -> str:
        """The descriptor's own, else that of the stored content, else what a manifest or the origin says."""
        if found.media_type:
            return found.media_type
        if self._source.stored(found.digest) is not None:
            with contextlib.suppress(DownloadFailed, OriginError, InvalidManifest):
                return Manifest.parse((await self._content(found, location))[1]).media_type
        resolution = await self._tags.resolve(location, found.digest, BlobKind.MANIFEST)
        return resolution.descriptor.media_type or UNKNOWN_TYPE

    async def _learn(self, content: bytes, found: Descriptor, location: Location) -> str:
        """Tell the engine what the manifest names, and say its media type."""
        try:
            manifest = Manifest.parse(content)
        except InvalidManifest:  # a kind that is not known here, or no manifest at all: the origin knows
            return await self._media_type(found, location)
        children = tuple(child for child, _ in manifest.children)
        self._source.expect((*manifest.blobs, *children), location)
        return manifest.media_type


def _check_size(reference: Tag | Digest, size: int) -> None:
    if size > MAX_MANIFEST_SIZE:
        raise OriginNotFound(f"what {reference} stands for is larger than any manifest: {size} bytes")
