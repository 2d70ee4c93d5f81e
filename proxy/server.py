"""The distribution API's pull side over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, Self

import structlog
from aiohttp import hdrs, web
from multidict import CIMultiDict

from peer.account import accounted
from peer.tally import Tally
from proxy.admission import Admission, asked_for, enforce
from proxy.audited import audited
from proxy.base import BaseFrontend, BaseOrigin
from proxy.blobs import BlobFrontend
from proxy.catalogue import Catalogue
from proxy.clientele import Clientele, program_of
from proxy.destinations import Opened
from proxy.errors import ErrorAnswer, ProxyRefused, PushRefused, answer_to
from proxy.heads import MAX_FIELD_SIZE, MAX_HEADERS
from proxy.identity import Identity, client_identity
from proxy.listings import ListingFrontend, ListingOrigin
from proxy.manifests import ManifestFrontend
from proxy.memory import AnswerMemory
from proxy.metrics import ProxyMetrics
from proxy.naming import PREFIX, BlobTarget, CatalogTarget, ManifestTarget, Namer, ReferrersTarget, TagsTarget, Target
from proxy.pulls import CLIENT_LEFT, Client, Pulls
from proxy.reading import ImageReader
from proxy.responses import API_HEADERS, Call
from proxy.settings import ProxySettings
from proxy.source import BlobSource
from proxy.tags import OriginHead, Resolver, TagResolver
from shoal.audit import Audit
from shoal.digest import Digest
from shoal.guests import Guest, Guests, Limits
from shoal.listener import Listener
from shoal.reference import Location, Registry, Tag
from shoal.traces import NO_TRACES, Traces

if TYPE_CHECKING:
    from proxy.forward import ForwardProxy

log = structlog.get_logger()

_KEEPALIVE_SECONDS = 75.0
_SHORTEST_SHUTDOWN = 0.001
"""Seconds; aiohttp takes 0 for no limit at all."""

_REFUSAL = ErrorAnswer(503, "UNAVAILABLE", "this mirror has as many connections as it may have")

_MISSING = {"manifest": "MANIFEST_UNKNOWN", "blob": "BLOB_UNKNOWN"}


class Upstreams(OriginHead, ListingOrigin, BaseOrigin, Protocol):
    """What the front end itself asks the origin for (`proxy.upstream.UpstreamClient` implements it)."""

    async def public(self, registry: Registry) -> Identity:
        """As whom clients that say nothing are served; raises `OriginDenied`."""

    async def node(self, registry: Registry) -> Identity:
        """As whom this node itself asks; raises `OriginDenied`."""


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
        catalogue: Catalogue,
        metrics: ProxyMetrics,
        *,
        audit: Audit | None = None,
        tally: Tally | None = None,
        pulls: Pulls | None = None,
        connections: int = 4096,
        traces: Traces = NO_TRACES,
    ) -> None:
        """`connections`: how many clients may have at a time; the next ones are refused. `audit` is its owner's, and
        so are `tally`, in which is counted what clients are given, and `pulls`, in which account is kept of them."""
        self._settings = settings
        self._metrics = metrics
        self._tally = metrics.tally = Tally() if tally is None else tally
        self._traces = traces
        self.pulls = Pulls() if pulls is None else pulls
        self._upstreams = upstreams
        self._namer = _namer(settings)
        self.tags = TagResolver(settings, resolver, upstreams, catalogue, metrics, traces=traces)
        self._base = BaseFrontend(upstreams, resolver, settings.rights_freshness)
        self._blobs = BlobFrontend(source, self.tags, settings.lazy)
        self._manifests = ManifestFrontend(source, self.tags)
        self._listings = ListingFrontend(upstreams)
        self._admission = Admission(settings.admission, metrics)
        self.reader = ImageReader(self._namer, self._admission, upstreams, self._manifests)
        self._memory = AnswerMemory()
        self.clientele = Clientele()
        self._parts = contextlib.AsyncExitStack()
        self._runner: web.AppRunner | None = None
        limits = Limits.shared(connections, settings.client_timeout)
        self._guests = Guests(limits, _REFUSAL.plain, metrics.refused.inc, lambda: self._opened)
        self._port = settings.port
        self.app = web.Application()
        self.app.router.add_route("*", "/v2", self._handle)
        self.app.router.add_route("*", "/v2/{path:(?s:.*)}", self._handle)
        self._audit = audit
        self._forward: ForwardProxy | None = None
        if settings.tunnel.enabled:
            from proxy.forward import ForwardProxy  # what it needs of X.509 takes 8 MiB

            self._forward = ForwardProxy.of(settings, self._handle, metrics, self._audit, self.tags.refresh)
            self.app.router.add_route("*", "/{path:.*}", self._handle)

    def prepare(self, settings: ProxySettings) -> Callable[[], None]:
        """Read what other settings name; what is live of them holds when what is returned is called.

        Raises `CredentialsUnreadable` and `RulesUnusable`.
        """
        prepared = [self._admission.prepare(settings.admission)]
        if self._forward is not None:
            prepared.append(self._forward.prepare(settings))

        def take_over() -> None:
            for each in prepared:
                each()
            self._settings = settings
            self._namer = _namer(settings)
            self.tags.reconfigure(settings)
            self._base.rights_freshness = settings.rights_freshness
            self._blobs.lazy = settings.lazy

        return take_over

    @property
    def port(self) -> int:
        """The port that is listened on, also where the settings leave the choice to the system."""
        return self._port

    @property
    def authority_ends(self) -> float | None:
        """When the authority of forward-proxy mode ends, in seconds since the epoch; None without that mode."""
        return None if self._forward is None else self._forward.authority_ends

    async def __aenter__(self) -> Self:
        """Begin to listen; raises `OSError` where the address is not to be had."""
        self.tags.restore()
        self._runner = web.AppRunner(
            self.app,
            access_log=None,
            auto_decompress=False,
            handler_cancellation=True,
            keepalive_timeout=_KEEPALIVE_SECONDS,
            max_field_size=MAX_FIELD_SIZE,
            max_headers=MAX_HEADERS,
            shutdown_timeout=max(self._settings.shutdown_timeout, _SHORTEST_SHUTDOWN),
        )
        await self._runner.setup()
        assert self._runner.server is not None
        settings = self._settings
        try:
            await self._parts.enter_async_context(self._admission)
            if self._forward is not None:
                await self._forward.__aenter__()
            self._listener = await self._parts.enter_async_context(
                Listener(self._protocol, settings.host, settings.port, self._guests)
            )
        except BaseException:
            await self._end()
            raise
        self._port = self._listener.port
        log.info("proxy.listening", host=self._settings.host, port=self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        self._listener.close()
        try:
            await self._end()
        finally:
            await self._base.close()
            await self.tags.close()

    async def _end(self) -> None:
        """Let running responses finish for a time, inside opened hosts too, and then what they are noted by."""
        assert self._runner is not None
        ends = [self._runner.cleanup()]
        if self._forward is not None:
            ends.append(self._forward.__aexit__())
        try:
            await asyncio.gather(*ends)
        finally:
            await self._parts.aclose()

    def _protocol(self, guest: Guest) -> asyncio.BaseProtocol:
        """What speaks with a client that has connected."""
        assert self._runner is not None
        assert self._runner.server is not None
        http = self._runner.server
        return http() if self._forward is None else self._forward.connects.doorway(http, guest)

    @property
    def _opened(self) -> int:
        """Connections inside opened hosts."""
        return 0 if self._forward is None else self._forward.connects.held

    async def _handle(self, request: web.Request, inside: Opened | None = None) -> web.StreamResponse:
        """One request: its answer, or an error in place of it as long as no answer has begun."""
        with self._traces.serving(request.headers) as span:
            return await self._respond(Call(request, self._metrics, self._memory, self._tally, inside, span=span))

    async def _respond(self, call: Call) -> web.StreamResponse:
        try:
            try:
                with accounted(call.account):
                    await self._answer(call)
            except Exception as error:  # where a request ends
                if call.response is None:
                    await call.send(self._failed(call, error))
                else:
                    call.cut(error)
        except BaseException:  # a cancellation above all: the client has left, or the proxy stops
            call.abort()
            self._ended(call, CLIENT_LEFT)
            raise
        assert call.response is not None
        self._ended(call, CLIENT_LEFT if call.has_left else call.response.status)
        return call.response  # which aiohttp finds sent, or its connection closed

    def _ended(self, call: Call, status: int) -> None:
        request = call.request
        seconds = time.monotonic() - call.started_at
        self._tally.requests += 1
        if call.record is not None:
            size = 0 if call.response is None else call.response.content_length or 0
            call.record.end(status, size, time.monotonic(), call.failure)
        self._metrics.request_seconds.labels(call.route, str(status)).observe(seconds)
        self.clientele.asked(request.headers.get(hdrs.USER_AGENT, ""), time.monotonic())
        if call.span.is_recorded:
            _describe(call, status)
        if self._audit is not None:
            self._audit.record(**audited(call, status, seconds))
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
        if self._forward is not None:
            if await self._forward.answered(call):
                return
        elif not request.raw_path.startswith("/"):  # meant for another host
            raise ProxyRefused("this mirror is no proxy for other hosts (proxy.tunnel.enabled)")
        if request.method not in {hdrs.METH_GET, hdrs.METH_HEAD}:
            raise PushRefused("this mirror only serves pulls: push to the registry itself")
        path = request.rel_url.raw_path
        ns = call.inside.registry if call.inside is not None else request.query.get("ns")
        if path in {PREFIX, PREFIX.rstrip("/")}:
            call.route = "base"
            registry = self._namer.registry(ns)
            await self._base.answer(call, registry, await self._identity(request, registry))
            return
        target = self._namer.parse(path, ns)
        self._admit(call, target)
        identity = await self._identity(request, target.registry)
        match target:
            case BlobTarget() if self._forward is not None and call.inside and request.method == hdrs.METH_HEAD:
                await self._forward.relay(call)  # who pushes asks so whether the registry itself has it
            case BlobTarget():
                call.route = "blob"
                self._note(call, target.location, target.digest)
                await self._blobs.answer(call, target, identity)
            case ManifestTarget():
                call.route = "manifest"
                self._note(call, target.location, target.reference)
                await self._manifests.answer(call, target, identity)
            case TagsTarget():
                call.route = "tags"
                await self._listings.answer(call, target, identity)
            case CatalogTarget():
                call.route = "catalog"
                await self._listings.answer(call, target, identity)
            case ReferrersTarget():
                call.route = "referrers"
                await self._listings.answer(call, target, identity)

    def _note(self, call: Call, location: Location, reference: Tag | Digest) -> None:
        """Keep an account of the pull to which this belongs."""
        request, now = call.request, time.time()
        client = Client(request.remote or "", program_of(request.headers.get(hdrs.USER_AGENT, "")))
        call.record = self.pulls.begin(client, location, call.route, request.method, reference, call.account, now)

    def _admit(self, call: Call, target: Target) -> None:
        """Raises `AdmissionDenied`."""
        call.target = target
        asked = asked_for(target)
        if asked is not None:
            call.verdict = self._admission.check(*asked)
            enforce(call.verdict, *asked)

    async def _identity(self, request: web.Request, registry: Registry) -> Identity:
        """As whom the origin is asked: as the client, where it sends credentials of its own."""
        client = client_identity(request.headers.getall(hdrs.AUTHORIZATION, []))
        return client if client is not None else await self._upstreams.public(registry)

    def _failed(self, call: Call, error: Exception) -> web.Response:
        request = call.request
        answer = answer_to(error, _MISSING.get(call.route, "NAME_UNKNOWN"), {"path": request.path[:500]})
        self._metrics.errors.labels(answer.code).inc()
        call.failure = answer.message
        if answer.status == 500:
            log.exception("proxy.error", method=request.method, path=request.path)
        elif answer.status > 500:
            log.warning("proxy.unavailable", path=request.path, status=answer.status, error=answer.message)
        headers = CIMultiDict(API_HEADERS)
        headers.extend(answer.headers)
        return web.Response(status=answer.status, body=answer.body, content_type="application/json", headers=headers)


def _namer(settings: ProxySettings) -> Namer:
    return Namer(settings.upstreams, Registry(settings.default_upstream), settings.aliases(), settings.any_upstream)


def _describe(call: Call, status: int) -> None:
    """What a trace says of a request, by OpenTelemetry's names where there are some."""
    request, span = call.request, call.span
    span.rename(f"{request.method} {call.route}")
    span.set({"http.request.method": request.method, "url.path": request.path, "http.response.status_code": status})
    span.set({f"shoal.from.{source}": size for source, size in call.came_from.items()})
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        span.failed(HTTPStatus(status).phrase)
