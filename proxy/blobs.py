"""Blobs to clients: whole or a range of them, stored or on their way."""

from __future__ import annotations

import time
from collections.abc import Mapping

from aiohttp import hdrs, web

from peer.account import Cause, waiting_for
from peer.asked import Asked, Behind
from peer.origin import OriginNotFound, OriginUnavailable, SizeDiffers
from proxy.identity import Identity
from proxy.naming import BlobTarget
from proxy.parts import Selection, select
from proxy.responses import UNKNOWN_TYPE, Call, content_headers, not_modified
from proxy.settings import Lazy
from proxy.source import BlobSource
from proxy.tags import TagResolver
from shoal.descriptor import BlobKind, Descriptor
from shoal.digest import Digest
from shoal.pieces import MAX_BLOB_SIZE
from shoal.ranges import ByteRange
from shoal.recent import Recent
from shoal.reference import Location

_FAILED_SECONDS = 10.0
_HURRY_SECONDS = 3.4
"""By so much less a client is let wait for a blob that nobody could give a short while ago: docker asks five times for
it before it goes on to the registry."""

_MAX_FAILURES = 4096
_BEHIND: Mapping[Lazy, Behind] = {"range": Behind.NOTHING, "background": Behind.REST, "whole": Behind.IMAGE}


class BlobFrontend:
    """Answers `/v2/NAME/blobs/DIGEST`."""

    def __init__(self, source: BlobSource, tags: TagResolver, lazy: Lazy = "background") -> None:
        """`lazy`: what is fetched besides the ranges that clients ask for (`proxy.settings`)."""
        self._source = source
        self._tags = tags
        self.lazy = lazy
        self._failed: Recent[tuple[Digest, Location], float] = Recent(_MAX_FAILURES)
        """Blobs that nobody could give, and until when that is remembered."""

    async def answer(self, call: Call, target: BlobTarget, identity: Identity) -> None:
        """GET and HEAD; HEAD begins no download. Raises `RequestError`, `OriginError` or `DownloadFailed`."""
        digest, location = target.digest, target.location
        named, stored = self._source.named(digest, location), self._source.stored(digest)
        size = stored if stored is not None else (named.size if named is not None else None)
        with waiting_for(Cause.TAG):
            if size is not None:
                blob = Descriptor(digest, size)
                await self._tags.admit(location, blob, identity, named=named is not None)
            else:
                blob = (await self._tags.resolve(location, digest, BlobKind.BLOB, identity)).descriptor
        since = call.started_at
        if since < self._failed.get((digest, location), 0.0):
            since -= _HURRY_SECONDS
        try:
            await self._give(call, target, blob.size, since)
        except SizeDiffers as error:
            if stored is None and named is not None:
                if not self._source.names(digest, error.size, location):
                    raise  # whoever asks for it has read a manifest that is wrong
            else:  # what the origin answered to HEAD was only a hint
                self._tags.correct(location, digest, blob, error.size)
            await self._give(call, target, error.size, since)
        except OriginUnavailable:
            self._failed.put((digest, location), time.monotonic() + _FAILED_SECONDS)
            raise

    async def _give(self, call: Call, target: BlobTarget, size: int, since: float) -> None:
        """Answer for a blob of `size` bytes, for which the client waits since then by the monotonic clock.

        Raises `SizeDiffers` as long as no answer has begun.
        """
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
        async with await self._source.open(blob, target.location, asked, since) as opened:
            if opened.descriptor.size != size:
                message = f"{target.digest} has {opened.descriptor.size} bytes here, {size} were expected"
                raise SizeDiffers(message, opened.descriptor.size)
            await opened.ready(selection.parts[0].span.start)
            response = web.StreamResponse(status=selection.status, headers=headers)
            await call.send(response, opened, selection)

    def _asked(self, selection: Selection, size: int) -> Asked | None:
        """What a range request asks for. A range of all bytes is none: containerd pulls with `bytes=0-`."""
        ranges = selection.ranges
        return None if ranges == [ByteRange(0, size)] else Asked(tuple(ranges), _BEHIND[self.lazy])
