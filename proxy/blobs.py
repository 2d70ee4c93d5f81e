"""Blobs to clients: whole or a range of them, stored or on their way."""

from __future__ import annotations

from aiohttp import hdrs, web

from peer.origin import OriginNotFound
from proxy.errors import UnsatisfiableRange
from proxy.naming import BlobTarget
from proxy.responses import Exchange, content_headers, not_modified, send_blob
from proxy.source import BlobSource
from proxy.tags import TagResolver
from shoal.descriptor import BlobKind, Descriptor
from shoal.pieces import MAX_BLOB_SIZE
from shoal.ranges import ByteRange, RangeNotSatisfiable, parse_range

_MEDIA_TYPE = "application/octet-stream"
"""What registries say of every blob; its real type stands in the manifest."""


class BlobFrontend:
    """Answers `/v2/NAME/blobs/DIGEST`."""

    def __init__(self, source: BlobSource, tags: TagResolver) -> None:
        self._source = source
        self._tags = tags

    async def answer(self, exchange: Exchange, target: BlobTarget) -> web.StreamResponse:
        """GET and HEAD; HEAD begins no download. Raises `RequestError`, `OriginError` or `DownloadFailed`."""
        request = exchange.request
        blob = await self._describe(target)
        unchanged = not_modified(request, target.digest)
        if unchanged is not None:
            return unchanged
        headers = content_headers(blob.digest, _MEDIA_TYPE, blob.size)
        headers[hdrs.ACCEPT_RANGES] = "bytes"
        if request.method == hdrs.METH_HEAD:
            return web.Response(headers=headers)
        part = _part(request, blob)
        if part is not None:
            headers[hdrs.CONTENT_RANGE] = part.content_range(blob.size)
            headers[hdrs.CONTENT_LENGTH] = str(part.length)
        whole = ByteRange(0, blob.size)
        async with await self._source.open(blob, target.location) as opened:
            await opened.ready((part or whole).start)
            response = web.StreamResponse(status=200 if part is None else 206, headers=headers)
            return await send_blob(exchange, response, opened, part or whole)

    async def _describe(self, target: BlobTarget) -> Descriptor:
        known = self._source.known(target.digest)
        if known is not None:
            return known
        resolution = await self._tags.resolve(target.location, target.digest, BlobKind.BLOB)
        if resolution.descriptor.size > MAX_BLOB_SIZE:
            raise OriginNotFound(f"a blob of {resolution.descriptor.size} bytes is over the limit of {MAX_BLOB_SIZE}")
        return resolution.descriptor


def _part(request: web.Request, blob: Descriptor) -> ByteRange | None:
    condition = request.headers.get(hdrs.IF_RANGE)
    if condition is not None and condition.strip() != f'"{blob.digest}"':
        return None
    try:
        return parse_range(request.headers.get(hdrs.RANGE), blob.size)
    except RangeNotSatisfiable:
        raise UnsatisfiableRange(blob.size) from None
