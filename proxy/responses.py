"""How a response is made: its headers, its bytes, and what happens when it cannot be finished."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import structlog
from aiohttp import hdrs, web

from peer.account import Account, Cause
from peer.errors import DownloadFailed
from peer.origin import OriginError
from peer.sink import Source
from peer.tally import Tally
from proxy.client import ClientLeft, ClientSink
from proxy.destinations import Opened
from proxy.memory import LONG, AnswerMemory
from proxy.metrics import ProxyMetrics
from proxy.naming import Target
from proxy.parts import Selection
from proxy.pulls import Record
from proxy.rules import Verdict
from proxy.source import Blob
from shoal.digest import Digest
from shoal.traces import NO_SPAN, Span

log = structlog.get_logger()

API_HEADERS: Mapping[str, str] = {"Docker-Distribution-Api-Version": "registry/2.0"}
UNKNOWN_TYPE = "application/octet-stream"
"""What registries say of every blob; its real type stands in the manifest."""


@dataclass(slots=True)
class Call:
    """One request of a client and its one response, which `send` and nothing else gives."""

    request: web.Request
    metrics: ProxyMetrics
    memory: AnswerMemory
    """For long answers that are sent from memory."""

    tally: Tally
    """What this node has given to clients."""

    inside: Opened | None = None
    """The host that the request is meant for, where it came in forward-proxy mode; it says which registry is meant."""

    target: Target | None = None
    """What is asked for, as soon as that is known."""

    span: Span = NO_SPAN
    """This request in its trace."""

    verdict: Verdict | None = None
    """What the admission rules say of it."""

    record: Record | None = None
    """By what the account of its pull is kept, where it belongs to one."""

    route: str = "other"
    started_at: float = field(default_factory=time.monotonic)
    account: Account = field(init=False)
    sent: int = 0
    came_from: dict[Source, int] = field(default_factory=dict)
    """Bytes of `sent` by where they came from."""

    failure: str = ""
    """Why the answer is an error, or was cut."""

    has_left: bool = False
    """Whether the client left before all of the answer was given."""

    response: web.StreamResponse | None = None
    """The response that has begun. There is never another one: from then on, what goes wrong cuts the connection."""

    transport: asyncio.Transport | None = field(init=False)
    _is_given: bool = False

    def __post_init__(self) -> None:
        self.transport = self.request.transport
        self.account = Account(self.started_at)

    async def send(
        self,
        response: web.StreamResponse,
        blob: Blob | None = None,
        selection: Selection | None = None,
        *,
        content: bytes = b"",
    ) -> bool:
        """Send a response: its own body, or `selection` of a blob, which is ready there, or `content`.

        True where all of it went. A body of its own is a short one.

        Raises no `Exception`: an error cuts the connection, so that the client sees an incomplete body. Who catches
        anything else, a cancellation, calls `abort`.
        """
        if self.response is not None:
            raise RuntimeError("a request is answered once")
        self.response = response
        try:
            if len(content) < LONG:
                await self._send(response, blob, selection, content)
            else:
                with self.memory.holding(self.abort) as take:
                    take(len(content))
                    await self._send(response, blob, selection, content)
        except Exception as error:
            self.cut(error)
            return False
        return True

    def cut(self, error: Exception) -> None:
        """End the connection in the middle of a response. A client that goes away has not failed."""
        self.abort()
        if isinstance(error, ClientLeft):
            self.has_left = not self._is_given
            log.debug("client.left", path=self.request.path, sent=self.sent)
            return
        report = log.warning if isinstance(error, OriginError | DownloadFailed | OSError) else log.exception
        report("response.cut", path=self.request.path, sent=self.sent, error=str(error) or repr(error))
        self.failure = str(error) or repr(error)
        self.metrics.cut.inc()

    def abort(self) -> None:
        """Close the connection without what has not been sent."""
        if self.transport is not None:
            self.transport.abort()

    def count(self, sources: Iterable[tuple[Source, int]]) -> None:
        """Bytes have gone to the client, so many from each of these places."""
        now = time.monotonic()
        for source, size in sources:
            self.account.gave(source, size, now)
            self.tally.served[source] += size
            self.sent += size
            self.came_from[source] = self.came_from.get(source, 0) + size

    def relayed(self, size: int) -> None:
        """Bytes of a registry's own answer have gone to the client."""
        self.sent += size
        self.tally.relayed += size

    def served(self) -> None:
        """All of a blob, of a part of it or of a manifest has gone to the client."""
        if self.came_from:
            most = max(self.came_from, key=self.came_from.__getitem__)
            self.metrics.served.labels(self.route, most).inc()
            self.metrics.served_at.set_to_current_time()

    async def _send(
        self, response: web.StreamResponse, blob: Blob | None, selection: Selection | None, content: bytes
    ) -> None:
        request, transport = self.request, self.transport
        if transport is None or transport.is_closing():
            raise ClientLeft("the client is gone")
        try:
            writer = await response.prepare(request)
        except ConnectionError as error:
            raise ClientLeft(str(error)) from None
        assert writer is not None
        self.account.turn(Cause.CLIENT, time.monotonic())
        if request.method == hdrs.METH_GET and response.status in {200, 206}:
            self.metrics.first_byte_seconds.labels(self.route).observe(time.monotonic() - self.started_at)
        if blob is not None and selection is not None:
            place = _Place(self, blob)
            sink = ClientSink(transport, writer, selection.length, place.moved)
            for part in selection.parts:
                place.at = part.span.start
                if part.head:
                    await sink.write(part.head)
                    place.at = part.span.start
                await blob.send(sink, part.span.start, part.span.end)
            if selection.tail:
                place.at = selection.parts[-1].span.start
                await sink.write(selection.tail)
            if sink.missing:
                raise DownloadFailed(f"{sink.missing} bytes are missing")
            self.served()
        elif content and request.method == hdrs.METH_GET:
            sink = ClientSink(transport, writer, len(content), lambda _: None)
            for start in range(0, len(content), LONG):
                await sink.write(memoryview(content)[start : start + LONG])
        self._is_given = True
        try:
            await response.write_eof()
        except ConnectionError as error:
            raise ClientLeft(str(error)) from None


@dataclass(slots=True)
class _Place:
    """Where a response stands in its blob, so that each byte is counted for where it came from."""

    call: Call
    blob: Blob
    at: int = 0

    def moved(self, size: int) -> None:
        """So many bytes more have gone."""
        self.call.count(self.blob.sources(self.at, self.at + size))
        self.at += size


def content_headers(digest: Digest, media_type: str, size: int) -> dict[str, str]:
    """What every answer about a blob or a manifest says; the body is never compressed."""
    return {
        **API_HEADERS,
        "Content-Type": media_type if media_type.isascii() and media_type.isprintable() else UNKNOWN_TYPE,
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
