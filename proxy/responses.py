"""How a response is made: its headers, its bytes, and what happens when it cannot be finished."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import structlog
from aiohttp import web

from peer.errors import DownloadFailed
from peer.origin import OriginError
from proxy.metrics import ProxyMetrics
from proxy.sendfile import send_file
from proxy.source import Blob
from shoal.digest import Digest
from shoal.ranges import ByteRange

log = structlog.get_logger()

API_HEADERS: Mapping[str, str] = {"Docker-Distribution-Api-Version": "registry/2.0"}


@dataclass(slots=True)
class Exchange:
    """One request with its response, as far as it is known for metrics and logs."""

    request: web.Request
    metrics: ProxyMetrics
    route: str = "other"
    started_at: float = field(default_factory=time.monotonic)
    sent: int = 0

    def began(self) -> None:
        """The first byte of the body leaves now."""
        self.metrics.first_byte_seconds.labels(self.route).observe(time.monotonic() - self.started_at)

    def count(self, source: str, size: int) -> None:
        """`size` bytes have gone to the client."""
        self.sent += size
        self.metrics.sent_bytes.labels(source).inc(size)


def content_headers(digest: Digest, media_type: str, size: int) -> dict[str, str]:
    """What every answer about a blob or a manifest says; the body is never compressed."""
    return {
        **API_HEADERS,
        "Content-Type": media_type,
        "Content-Length": str(size),
        "Docker-Content-Digest": digest,
        "ETag": f'"{digest}"',
    }


def not_modified(request: web.Request, digest: Digest) -> web.Response | None:
    """304 where the client says that it has this content already."""
    header = request.headers.get("If-None-Match")
    if header is None:
        return None
    held = {tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")}
    if digest not in held and "*" not in held:
        return None
    headers = {**API_HEADERS, "Docker-Content-Digest": digest, "ETag": f'"{digest}"'}
    return web.Response(status=304, headers=headers)


async def send_blob(
    exchange: Exchange, response: web.StreamResponse, blob: Blob, part: ByteRange
) -> web.StreamResponse:
    """Send a part of a blob: from its file where it is stored, else as it comes.

    The blob is ready at the part's start. From here on the status is out: what fails cuts the connection, so that the
    client sees an incomplete body. A client that goes away has not failed.
    """
    transport = exchange.request.transport
    try:
        file = os.open(blob.stored, os.O_RDONLY) if blob.stored is not None else None
    except OSError as error:
        raise DownloadFailed(f"the stored blob cannot be opened: {error}") from None
    try:
        writer = await response.prepare(exchange.request)
        if writer is None or transport is None:
            return response
        exchange.began()
        if file is not None:
            sent = partial(exchange.count, "store")
            await send_file(transport, writer, file, part.start, part.end, sent)
        else:
            await _stream(exchange, response, blob, part)
        await response.write_eof()
    except (ConnectionError, TimeoutError):
        log.debug("client.left", path=exchange.request.path, sent=exchange.sent)
    except (OriginError, DownloadFailed, OSError) as error:
        log.warning("response.cut", path=exchange.request.path, sent=exchange.sent, error=str(error) or repr(error))
        exchange.metrics.cut.inc()
        if transport is not None:
            transport.abort()
    finally:
        if file is not None:
            os.close(file)
    return response


async def _stream(exchange: Exchange, response: web.StreamResponse, blob: Blob, part: ByteRange) -> None:
    missing = part.length
    async for content in blob.read(part.start, part.end):
        missing -= len(content)
        await response.write(content)
        exchange.count("download", len(content))
    if missing:
        raise DownloadFailed(f"{missing} bytes are missing")
