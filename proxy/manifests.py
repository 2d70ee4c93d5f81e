"""Manifests to clients: by tag or by digest, read once here so that the engine knows the image's blobs."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

from aiohttp import hdrs, web

from peer.account import Cause, waiting_for
from peer.errors import DownloadFailed
from peer.origin import OriginError, OriginNotFound, SizeDiffers
from peer.sink import Source
from proxy.freshness import Resolution
from proxy.identity import Identity
from proxy.naming import ManifestTarget
from proxy.parts import select
from proxy.pulls import Record
from proxy.responses import UNKNOWN_TYPE, Call, content_headers, not_modified
from proxy.source import BlobSource
from proxy.tags import TagResolver
from shoal.descriptor import (
    MANIFEST_TYPES,
    MAX_MANIFEST_SIZE,
    SCHEMA1_TYPES,
    BlobKind,
    Descriptor,
    InvalidManifest,
    Manifest,
)
from shoal.digest import Digest
from shoal.reference import Location, Tag

_MAX_ACCEPT = 4096
_NARROW = frozenset(MANIFEST_TYPES)


class ManifestFrontend:
    """Answers `/v2/NAME/manifests/REFERENCE`."""

    def __init__(self, source: BlobSource, tags: TagResolver) -> None:
        self._source = source
        self._tags = tags

    async def answer(self, call: Call, target: ManifestTarget, identity: Identity) -> None:
        """GET and HEAD; HEAD begins no download. Raises `OriginError` or `DownloadFailed`."""
        request, location = call.request, target.location
        with waiting_for(Cause.TAG):
            resolution = await self._resolve(target, identity, accepted(request.headers.getall(hdrs.ACCEPT, [])))
        found = resolution.descriptor
        if call.record is not None:
            call.record.names(found.digest)
        marks = {"Warning": f'299 - "stale: {location.registry} did not answer"'} if resolution.stale else {}
        unchanged = not_modified(request, found.digest)
        if unchanged is not None:
            unchanged.headers.update(marks)
            await call.send(unchanged)
            return
        if request.method == hdrs.METH_HEAD:
            media_type = await self._media_type(found, location, identity)
            headers = {**content_headers(found.digest, media_type, found.size), **marks}
            await call.send(web.Response(headers=headers))
            return
        source, content = await self._read(resolution, target, call.started_at)
        media_type = await self._learn(content, found, location, identity, call.record)
        headers = {**content_headers(found.digest, media_type, len(content)), **marks}
        status = 200
        selection = select(request, found.digest, len(content), media_type)
        if selection.length < len(content):  # registries give the whole to who asks for all of it by a range
            status, content = selection.status, selection.body(content)
            headers.update(selection.headers)
        headers[hdrs.CONTENT_LENGTH] = str(len(content))
        if await call.send(web.StreamResponse(status=status, headers=headers), content=content):
            call.count([(source, len(content))])
            call.served()

    async def read(self, target: ManifestTarget, identity: Identity) -> tuple[Descriptor, bytes]:
        """A manifest for this node's own use: what it names may be asked for then. Raises `OriginError` or
        `DownloadFailed`."""
        resolution = await self._resolve(target, identity, "")
        _, content = await self._read(resolution, target, time.monotonic())
        await self._learn(content, resolution.descriptor, target.location, identity)
        return replace(resolution.descriptor, size=len(content), kind=BlobKind.MANIFEST), content

    async def _resolve(self, target: ManifestTarget, identity: Identity, accept: str) -> Resolution:
        location, reference = target.location, target.reference
        resolution: Resolution | None = None
        if isinstance(reference, Digest):
            named, stored = self._source.named(reference, location), self._source.stored(reference)
            size = stored if stored is not None else (named.size if named is not None else None)
            if size is not None:
                known = Descriptor(reference, size, kind=BlobKind.MANIFEST)
                resolution = await self._tags.admit(location, known, identity, named=named is not None)
        if resolution is None:
            accept = "" if isinstance(reference, Digest) else accept
            resolution = await self._tags.resolve(location, reference, BlobKind.MANIFEST, identity, accept)
            stored = self._source.stored(resolution.descriptor.digest)
            if stored is not None:
                resolution = replace(resolution, descriptor=replace(resolution.descriptor, size=stored), named=True)
        _check_type(reference, resolution.descriptor.media_type)
        _check_size(reference, resolution.descriptor.size)
        return resolution

    async def _read(self, resolution: Resolution, target: ManifestTarget, since: float) -> tuple[Source, bytes]:
        """Where a manifest came from, and its bytes; a client waits for them since then."""
        found = resolution.descriptor
        try:
            return await self._content(found, target.location, since)
        except SizeDiffers as error:
            if resolution.named:
                raise
            _check_size(target.reference, error.size)
            self._tags.correct(target.location, target.reference, found, error.size)
            return await self._content(replace(found, size=error.size), target.location, since)

    async def _content(self, found: Descriptor, location: Location, since: float | None = None) -> tuple[Source, bytes]:
        async with await self._source.open(found, location, None, since) as opened:
            await opened.ready(0)
            content = await opened.content()
            return next(iter(opened.sources(0, 1)))[0], content

    async def _media_type(self, found: Descriptor, location: Location, identity: Identity) -> str:
        """The descriptor's own, else that of the stored content, else what a manifest or the origin says."""
        if found.media_type:
            return found.media_type
        if self._source.stored(found.digest) is not None:
            with contextlib.suppress(DownloadFailed, OriginError, InvalidManifest):
                return Manifest.parse((await self._content(found, location))[1]).media_type
        resolution = await self._tags.resolve(location, found.digest, BlobKind.MANIFEST, identity)
        return resolution.descriptor.media_type or UNKNOWN_TYPE

    async def _learn(
        self,
        content: bytes,
        found: Descriptor,
        location: Location,
        identity: Identity,
        record: Record | None = None,
    ) -> str:
        """Tell what the manifest names, so that it may be asked for there, and say its media type."""
        try:
            manifest = Manifest.parse(content)
        except InvalidManifest:  # a kind that is not known here, or no manifest at all: the origin knows
            return await self._media_type(found, location, identity)
        _check_type(found.digest, manifest.media_type)
        children = tuple(child for child, _ in manifest.children)
        named = (*manifest.blobs, *children)
        if record is not None:
            record.names(found.digest, (each.digest for each in named))
        self._source.expect(named, location)
        self._tags.name(location, named)
        return manifest.media_type


def accepted(headers: list[str]) -> str:
    """What a client's `Accept` headers say, where that may change the answer; empty where they take every kind."""
    text = ", ".join(headers)
    types = {entry.partition(";")[0].strip().lower() for entry in text.split(",")} - {""}
    if not types or "*/*" in types or types >= _NARROW or len(text) > _MAX_ACCEPT or not text.isprintable():
        return ""
    return ", ".join(sorted(types))


def _check_type(reference: Tag | Digest, media_type: str) -> None:
    if media_type in SCHEMA1_TYPES:
        raise OriginNotFound(f"{reference} is an image of schema 1, which has no digest of its own: it is not mirrored")


def _check_size(reference: Tag | Digest, size: int) -> None:
    if size > MAX_MANIFEST_SIZE:
        raise OriginNotFound(f"what {reference} stands for is larger than any manifest: {size} bytes")
