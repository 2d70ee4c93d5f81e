"""The distribution API's pull side over HTTP."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol, Self

import structlog
from aiohttp import hdrs, web

from proxy.blobs import BlobFrontend
from proxy.errors import PushRefused, answer_to
from proxy.listener import listen
from proxy.listings import ListingFrontend, ListingOrigin
from proxy.manifests import ManifestFrontend
from proxy.metrics import ProxyMetrics
from proxy.naming import PREFIX, BlobTarget, ManifestTarget, Namer, ReferrersTarget, TagsTarget
from proxy.responses import API_HEADERS, Call
from proxy.settings import ProxySettings
from proxy.source import BlobSource
from proxy.tags import OriginHead, Resolver, TagResolver
from shoal.reference import Registry

log = structlog.get_logger()

_KEEPALIVE_SECONDS = 75.0
_MAX_FIELD_SIZE = 64 << 10
"""Bytes of one header: podman names up to 1024 ranges at once, of 25 bytes each."""
_SHORTEST_SHUTDOWN = 0.001
"""Seconds; aiohttp takes 0 for no limit at all."""

_CLIENT_LEFT = 499
"""nginx's status, in metrics and logs alone, for a client that closed its connection before the end."""

_MISSING = {"manifest": "MANIFEST_UNKNOWN", "blob": "BLOB_UNKNOWN"}


class Upstreams(OriginHead, ListingOrigin, Protocol):
    """What the front end itself asks the origin for (`proxy.upstream.UpstreamClient` implements it)."""


class ProxyServer:
    """The front end, as an async context manager that listens; leaving it lets running responses finish for a time.

    `app` may be given more routes (health, metrics) before it is entered. `resolver` is None without a supernode.
    """

    def __init__(
        self,
        settings: ProxySettings,
        source: BlobSource,
        resolver: Resolver | None,
        upstreams: Upstreams,
        metrics: ProxyMetrics,
        *,
        connections: int = 4096,
    ) -> None:
        """`connections`: how many clients may have at a time; the next ones are refused."""
        self._settings = settings
        self._connections = connections
        self._metrics = metrics
        self._namer = Namer(settings.upstreams, Registry(settings.default_upstream))
        self._tags = TagResolver(settings.tag_freshness, resolver, upstreams, metrics)
        self._blobs = BlobFrontend(source, self._tags, settings.lazy)
        self._manifests = ManifestFrontend(source, self._tags)
        self._listings = ListingFrontend(upstreams)
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None
        self._port = settings.port
        self.app = web.Application()
        self.app.router.add_route("*", "/v2", self._handle)
        self.app.router.add_route("*", "/v2/{path:.*}", self._handle)

    @property
    def port(self) -> int:
        """The port that is listened on, also where the settings leave the choice to the system."""
        return self._port

    async def __aenter__(self) -> Self:
        """Begin to listen; raises `OSError` where the address is not to be had."""
        self._runner = web.AppRunner(
            self.app,
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=_KEEPALIVE_SECONDS,
            max_field_size=_MAX_FIELD_SIZE,
            shutdown_timeout=max(self._settings.shutdown_timeout, _SHORTEST_SHUTDOWN),
        )
        await self._runner.setup()
        assert self._runner.server is not None
        settings = self._settings
        try:
            self._listening = await listen(
                self._runner.server,
                settings.host,
                settings.port,
                self._connections,
                settings.client_timeout,
                self._metrics,
            )
        except BaseException:
            await self._runner.cleanup()
            raise
        self._port = self._listening.sockets[0].getsockname()[1]
        log.info("proxy.listening", host=self._settings.host, port=self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        assert self._listening is not None
        self._listening.close()
        try:
            await self._runner.cleanup()
        finally:
            await self._tags.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        """One request: its answer, or an error in place of it as long as no answer has begun."""
        call = Call(request, self._metrics)
        try:
            try:
                await self._answer(call)
            except Exception as error:  # where a request ends
                if call.response is None:
                    await call.send(self._failed(call, error))
                else:
                    call.cut(error)
        except BaseException:  # a cancellation above all: the client has left, or the proxy stops
            call.abort()
            self._ended(call, _CLIENT_LEFT)
            raise
        assert call.response is not None
        self._ended(call, call.response.status)
        return call.response  # which aiohttp finds sent, or its connection closed

    def _ended(self, call: Call, status: int) -> None:
        request = call.request
        seconds = time.monotonic() - call.started_at
        self._metrics.request_seconds.labels(call.route, str(status)).observe(seconds)
        log.debug(
            "proxy.request",
            method=request.method,
            path=request.path,
            ns=request.query.get("ns"),
            status=status,
            sent=call.sent,
            seconds=round(seconds, 4),
        )

    async def _answer(self, call: Call) -> None:
        request = call.request
        if request.method not in {hdrs.METH_GET, hdrs.METH_HEAD}:
            raise PushRefused("this mirror only serves pulls: push to the registry itself")
        path = request.rel_url.raw_path
        if path in {PREFIX, PREFIX.rstrip("/")}:
            call.route = "base"
            await call.send(web.Response(body=b"{}", content_type="application/json", headers=API_HEADERS))
            return
        target = self._namer.parse(path, request.query.get("ns"))
        match target:
            case BlobTarget():
                call.route = "blob"
                await self._blobs.answer(call, target)
            case ManifestTarget():
                call.route = "manifest"
                await self._manifests.answer(call, target)
            case TagsTarget():
                call.route = "tags"
                await self._listings.answer(call, target)
            case ReferrersTarget():
                call.route = "referrers"
                await self._listings.answer(call, target)

    def _failed(self, call: Call, error: Exception) -> web.Response:
        request = call.request
        answer = answer_to(error, _MISSING.get(call.route, "NAME_UNKNOWN"), {"path": request.path[:500]})
        if answer.status == 500:
            log.exception("proxy.error", method=request.method, path=request.path)
        elif answer.status > 500:
            log.warning("proxy.unavailable", path=request.path, status=answer.status, error=answer.message)
        headers = {**API_HEADERS, **answer.headers}
        return web.Response(status=answer.status, body=answer.body, content_type="application/json", headers=headers)
