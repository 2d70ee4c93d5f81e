"""Manifests to clients: by tag or by digest, read once here so that the engine knows the image's blobs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

from aiohttp import hdrs, web

from peer.errors import DownloadFailed
from peer.origin import OriginNotFound
from proxy.naming import ManifestTarget
from proxy.responses import Exchange, content_headers, not_modified
from proxy.source import Blob, BlobSource
from proxy.tags import Resolution, TagResolver
from shoal.descriptor import MAX_MANIFEST_SIZE, BlobKind, Descriptor, InvalidManifest, Manifest
from shoal.digest import Digest
from shoal.reference import Location

_UNKNOWN = "application/octet-stream"
_STALE: Mapping[str, str] = {"Warning": '110 - "Response is Stale"'}


class ManifestFrontend:
    """Answers `/v2/NAME/manifests/REFERENCE`."""

    def __init__(self, source: BlobSource, tags: TagResolver) -> None:
        self._source = source
        self._tags = tags

    async def answer(self, exchange: Exchange, target: ManifestTarget) -> web.StreamResponse:
        """GET and HEAD; HEAD begins no download. Raises `OriginError` or `DownloadFailed`."""
        request = exchange.request
        location = target.location
        resolution = await self._resolve(target)
        found = resolution.descriptor
        marks = _STALE if resolution.stale else {}
        unchanged = not_modified(request, found.digest)
        if unchanged is not None:
            unchanged.headers.update(marks)
            return unchanged
        if request.method == hdrs.METH_HEAD:
            media_type = await self._media_type(found, location)
            return web.Response(headers={**content_headers(found.digest, media_type, found.size), **marks})
        async with await self._source.open(found, location) as opened:
            await opened.ready(0)
            source = "download" if opened.stored is None else "store"
            content = await _read(opened)
        media_type = await self._learn(content, found, location)
        exchange.began()
        exchange.count(source, len(content))
        return web.Response(body=content, headers={**content_headers(found.digest, media_type, len(content)), **marks})

    async def _resolve(self, target: ManifestTarget) -> Resolution:
        location, reference = target.location, target.reference
        known = self._source.known(reference) if isinstance(reference, Digest) else None
        if known is None:
            resolution = await self._tags.resolve(location, reference, BlobKind.MANIFEST)
        else:
            resolution = Resolution(replace(known, kind=BlobKind.MANIFEST))
        if resolution.descriptor.size > MAX_MANIFEST_SIZE:
            raise OriginNotFound(f"what {reference} stands for is larger than any manifest")
        return resolution

    async def _media_type(self, found: Descriptor, location: Location) -> str:
        """The descriptor's own, else that of the stored content, else what a manifest or the origin says."""
        if found.media_type:
            return found.media_type
        if self._source.store.size(found.digest) is not None:
            with contextlib.suppress(OSError, InvalidManifest):
                return Manifest.parse(self._source.store.path(found.digest).read_bytes()).media_type
        known = self._source.known(found.digest)
        if known is not None and known.media_type:
            return known.media_type
        resolution = await self._tags.resolve(location, found.digest, BlobKind.MANIFEST)
        return resolution.descriptor.media_type or _UNKNOWN

    async def _learn(self, content: bytes, found: Descriptor, location: Location) -> str:
        """Tell the engine what the manifest names, and say its media type."""
        try:
            manifest = Manifest.parse(content)
        except InvalidManifest:  # a kind that is not known here, or no manifest at all: the origin knows
            return await self._media_type(found, location)
        children = tuple(child for child, _ in manifest.children)
        self._source.expect((*manifest.blobs, *children), location)
        return manifest.media_type


async def _read(blob: Blob) -> bytes:
    size = blob.descriptor.size
    content = b"".join([bytes(part) async for part in blob.read(0, size)])
    if len(content) != size:
        raise DownloadFailed(f"{len(content)} of {size} bytes came")
    return content
