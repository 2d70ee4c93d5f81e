"""Blobs to clients: whole or a range of them, stored or on their way."""

from __future__ import annotations

from aiohttp import hdrs, web

from peer.origin import OriginNotFound, SizeDiffers
from proxy.errors import UnsatisfiableRange
from proxy.naming import BlobTarget
from proxy.responses import UNKNOWN_TYPE, Call, content_headers, not_modified
from proxy.source import BlobSource
from proxy.tags import TagResolver
from shoal.descriptor import BlobKind, Descriptor
from shoal.digest import Digest
from shoal.pieces import MAX_BLOB_SIZE
from shoal.ranges import ByteRange, RangeNotSatisfiable, parse_range


class BlobFrontend:
    """Answers `/v2/NAME/blobs/DIGEST`."""

    def __init__(self, source: BlobSource, tags: TagResolver) -> None:
        self._source = source
        self._tags = tags

    async def answer(self, call: Call, target: BlobTarget) -> None:
        """GET and HEAD; HEAD begins no download. Raises `RequestError`, `OriginError` or `DownloadFailed`."""
        known = self._source.known(target.digest, target.location)
        if known is not None:
            await self._give(call, target, known.size)
            return
        resolution = await self._tags.resolve(target.location, target.digest, BlobKind.BLOB)
        try:
            await self._give(call, target, resolution.descriptor.size)
        except SizeDiffers as error:  # what the origin answered to HEAD was only a hint
            self._tags.correct(target.location, target.digest, resolution.descriptor, error.size)
            await self._give(call, target, error.size)

    async def _give(self, call: Call, target: BlobTarget, size: int) -> None:
        """Answer for a blob of `size` bytes; raises `SizeDiffers` as long as no answer has begun."""
        request = call.request
        if size > MAX_BLOB_SIZE:
            raise OriginNotFound(f"{target.digest} has {size} bytes, over the limit of {MAX_BLOB_SIZE}")
        unchanged = not_modified(request, target.digest)
        if unchanged is not None:
            await call.send(unchanged)
            return
        headers = content_headers(target.digest, UNKNOWN_TYPE, size)
        headers[hdrs.ACCEPT_RANGES] = "bytes"
        if request.method == hdrs.METH_HEAD:
            await call.send(web.Response(headers=headers))
            return
        part = _part(request, target.digest, size)
        if part is not None:
            headers[hdrs.CONTENT_RANGE] = part.content_range(size)
            headers[hdrs.CONTENT_LENGTH] = str(part.length)
        whole = ByteRange(0, size)
        async with await self._source.open(Descriptor(target.digest, size), target.location) as opened:
            if opened.descriptor.size != size:
                message = f"{target.digest} has {opened.descriptor.size} bytes here, {size} were expected"
                raise SizeDiffers(message, opened.descriptor.size)
            await opened.ready((part or whole).start)
            response = web.StreamResponse(status=200 if part is None else 206, headers=headers)
            await call.send(response, opened, part or whole)


def _part(request: web.Request, digest: Digest, size: int) -> ByteRange | None:
    condition = request.headers.get(hdrs.IF_RANGE)
    if condition is not None and condition.strip() != f'"{digest}"':
        return None
    try:
        return parse_range(request.headers.get(hdrs.RANGE), size)
    except RangeNotSatisfiable:
        raise UnsatisfiableRange(size) from None
