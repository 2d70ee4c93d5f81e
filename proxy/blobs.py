"""Blobs to clients: whole or a range of them, stored or on their way."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import hdrs, web

from peer.asked import Asked, Behind
from peer.origin import OriginNotFound, SizeDiffers
from proxy.identity import Identity
from proxy.naming import BlobTarget
from proxy.parts import Selection, select
from proxy.responses import UNKNOWN_TYPE, Call, content_headers, not_modified
from proxy.settings import Lazy
from proxy.source import BlobSource
from proxy.tags import TagResolver
from shoal.descriptor import BlobKind, Descriptor
from shoal.pieces import MAX_BLOB_SIZE
from shoal.ranges import ByteRange

_BEHIND: Mapping[Lazy, Behind] = {"range": Behind.NOTHING, "background": Behind.REST, "whole": Behind.IMAGE}


class BlobFrontend:
    """Answers `/v2/NAME/blobs/DIGEST`."""

    def __init__(self, source: BlobSource, tags: TagResolver, lazy: Lazy = "background") -> None:
        """`lazy`: what is fetched besides the ranges that clients ask for (`proxy.settings`)."""
        self._source = source
        self._tags = tags
        self._behind = _BEHIND[lazy]

    async def answer(self, call: Call, target: BlobTarget, identity: Identity) -> None:
        """GET and HEAD; HEAD begins no download. Raises `RequestError`, `OriginError` or `DownloadFailed`."""
        digest, location = target.digest, target.location
        named, stored = self._source.named(digest, location), self._source.stored(digest)
        size = stored if stored is not None else (named.size if named is not None else None)
        if size is not None:
            blob = Descriptor(digest, size)
            await self._tags.admit(location, blob, identity, named=named is not None)
        else:
            blob = (await self._tags.resolve(location, digest, BlobKind.BLOB, identity)).descriptor
        try:
            await self._give(call, target, blob.size)
        except SizeDiffers as error:
            if stored is None and named is not None:
                if not self._source.names(digest, error.size, location):
                    raise  # whoever asks for it has read a manifest that is wrong
            else:  # what the origin answered to HEAD was only a hint
                self._tags.correct(location, digest, blob, error.size)
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
        selection = select(request, target.digest, size, UNKNOWN_TYPE)
        headers.update(selection.headers)
        asked = self._asked(selection, size)
        blob = Descriptor(target.digest, size)
        async with await self._source.open(blob, target.location, asked, call.started_at) as opened:
            if opened.descriptor.size != size:
                message = f"{target.digest} has {opened.descriptor.size} bytes here, {size} were expected"
                raise SizeDiffers(message, opened.descriptor.size)
            await opened.ready(selection.parts[0].span.start)
            response = web.StreamResponse(status=selection.status, headers=headers)
            await call.send(response, opened, selection)

    def _asked(self, selection: Selection, size: int) -> Asked | None:
        """What a range request asks for. A range of all bytes is none: containerd pulls with `bytes=0-`."""
        ranges = selection.ranges
        return None if ranges == [ByteRange(0, size)] else Asked(tuple(ranges), self._behind)
