"""The operations endpoints of every daemon: `/metrics` for Prometheus, `/healthz` and `/readyz` for its keeper."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import structlog
from aiohttp import web
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from shoal.daemonsettings import OperationsSettings
from shoal.guests import Guests, Limits
from shoal.listener import Listener
from shoal.porttls import PortCertificate, PortTls
from shoal.version import VERSION

log = structlog.get_logger()

_MAX_BODY_SIZE = 64 << 10
_MAX_HEADERS = 32
_CONNECTIONS = 64
_KEEPALIVE_SECONDS = 75.0
"""Also how long a request may take until its head is whole."""
_PATIENCE_SECONDS = 60.0
_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

Readiness = Mapping[str, Callable[[], bool]]
"""Named conditions under which a daemon serves well."""


def process_metrics() -> CollectorRegistry:
    """A registry for a daemon's metrics that holds those of its process already."""
    # when each counter began doubles what is scraped, and nobody asks for it
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    Info("shoal_build", "The version of Shoal that runs.", registry=registry).info({"version": VERSION})
    return registry


def operations_routes(registry: CollectorRegistry, readiness: Readiness) -> list[web.RouteDef]:
    """Routes for an application that has other routes too."""

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def readyz(_: web.Request) -> web.Response:
        missing = sorted(name for name, is_met in readiness.items() if not is_met())
        if missing:
            return web.json_response({"status": "not ready", "not_ready": missing}, status=503)
        return web.json_response({"status": "ready", "not_ready": []})

    return [web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)]


class OperationsServer:
    """The operations endpoints on a port of their own, as an async context manager; `port` is known inside."""

    def __init__(
        self,
        settings: OperationsSettings,
        registry: CollectorRegistry,
        readiness: Readiness,
        routes: Sequence[web.RouteDef] = (),
        *,
        largest_body: int = _MAX_BODY_SIZE,
    ) -> None:
        """`routes`: what else is asked of the daemon there, in bodies of so many bytes at most. Raises
        `CertificateUnusable`."""
        self._settings = settings
        self._certificate = PortCertificate(settings.cert_file, settings.key_file) if settings.uses_tls else None
        app = web.Application(client_max_size=largest_body)
        app.add_routes([*operations_routes(registry, readiness), *routes])
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=1.0, keepalive_timeout=_KEEPALIVE_SECONDS, max_headers=_MAX_HEADERS
        )
        self._stack = contextlib.AsyncExitStack()
        self.port = settings.port

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            await self._runner.setup()
            stack.push_async_callback(self._runner.cleanup)
            http = self._runner.server
            assert http is not None
            guests = Guests(Limits.shared(_CONNECTIONS, _PATIENCE_SECONDS), _REFUSAL, lambda: None)
            tls = None if self._certificate is None else PortTls(guests, self._certificate, http)
            if tls is not None:
                await stack.enter_async_context(tls)
            make = tls.protocol if tls is not None else lambda _: http()
            listener = Listener(make, self._settings.host, self._settings.port, guests)
            self.port = (await stack.enter_async_context(listener)).port
            self._stack = stack.pop_all()
        log.info("operations.started", host=self._settings.host, port=self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
