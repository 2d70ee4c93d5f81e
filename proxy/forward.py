"""Forward-proxy mode: clients that have the mirror as `HTTPS_PROXY` or `HTTP_PROXY` reach every registry through it.

Behind CONNECT a host that the configuration names is opened with a certificate of the node's own authority: pulls are
answered like all others, as if `ns=` named the registry, and everything else (pushes, token servers on the registry's
own host) is relayed. Other hosts are tunnelled or refused.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Self, cast

import structlog
from aiohttp import hdrs, web
from yarl import URL

from peer.origin import OriginUnavailable
from proxy.addresses import NotPermitted, resolve
from proxy.certificates import AuthorityFiles, AuthorityUnusable, CertificateAuthority
from proxy.destinations import (
    Authority,
    Destinations,
    Elsewhere,
    InvalidAuthority,
    Opened,
    Reachable,
    Refused,
    TunnelSettings,
)
from proxy.doorway import BadConnect, Doorway, Threshold, parse_connect
from proxy.errors import MisdirectedRequest, ProxyRefused, UnknownEndpoint
from proxy.metrics import ProxyMetrics
from proxy.naming import PREFIX
from proxy.relay import Relay, Way, ways
from proxy.responses import Call
from proxy.settings import ProxySettings
from proxy.tunnel import Tunnel

log = structlog.get_logger()

_HANDSHAKE_SECONDS = 10.0
_GOODBYE_SECONDS = 2.0
_HTTPS_PORT = 443
_KEEPALIVE_SECONDS = 75.0
_ABSOLUTE = re.compile(r"(https?)://([^/?#]+)([^#]*)", re.IGNORECASE)
_PULL = re.compile(r"/v2/.+/(?:(?:manifests|referrers)/[^/]+|blobs/(?!uploads$)[^/]+|tags/list)")

Handler = Callable[[web.Request, Opened | None], Awaitable[web.StreamResponse]]
FindWay = Callable[[str], Way]


class ForwardProxy:
    """Everything that is not the mirror's own port, as an async context manager; leaving it ends all tunnels."""

    def __init__(
        self,
        settings: TunnelSettings,
        upstreams: Mapping[str, Reachable],
        authority: CertificateAuthority,
        way: FindWay,
        handle: Handler,
        metrics: ProxyMetrics,
        *,
        shutdown_timeout: float,
        keepalive: float = _KEEPALIVE_SECONDS,
    ) -> None:
        """`way` tells how an upstream is reached; `handle` answers requests of opened hosts. Times in seconds."""
        self._settings = settings
        self._authority = authority
        self._way = way
        self._handle = handle
        self._metrics = metrics
        self._keepalive = keepalive
        self._shutdown_timeout = shutdown_timeout
        self._destinations = Destinations(settings, upstreams)
        self._relay = Relay(settings.idle_timeout)
        self._servers: dict[Opened, web.Server] = {}
        self._doorways: set[Doorway] = set()
        self._tasks: dict[Doorway, asyncio.Task[None]] = {}

    @classmethod
    def of(cls, settings: ProxySettings, handle: Handler, metrics: ProxyMetrics) -> Self:
        """As the configuration has it; raises `AuthorityUnusable` and `CredentialsUnreadable`."""
        return cls(
            settings.tunnel,
            settings.upstreams,
            AuthorityFiles(settings.tunnel.ca).open(),
            ways(settings),
            handle,
            metrics,
            shutdown_timeout=settings.shutdown_timeout,
        )

    async def __aenter__(self) -> Self:
        await self._relay.__aenter__()
        log.info("tunnel.ready", hosts=self._destinations.opened_hosts, others=self._settings.others)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for doorway in list(self._doorways):
            doorway.transport.abort()
        for server in self._servers.values():
            server.pre_shutdown()
        await asyncio.gather(*(server.shutdown(self._shutdown_timeout) for server in self._servers.values()))
        await self._relay.__aexit__()

    @property
    def connections(self) -> int:
        """Connections that are held here, beside those that the mirror's HTTP server has."""
        return len(self._doorways) + self._inside

    @property
    def _inside(self) -> int:
        return sum(len(server.connections) for server in self._servers.values())

    def doorway(self, http: Callable[[], asyncio.BaseProtocol]) -> Doorway:
        """A protocol for a new connection, which goes on to `http` where it is no CONNECT request."""
        doorway = Doorway(http, self._connected, self._left, self._keepalive)
        self._doorways.add(doorway)
        return doorway

    async def answered(self, call: Call) -> bool:
        """Answer what is not for the mirror; False where it is, with `call.inside` set for an opened host.

        Raises `RequestError` and `OriginUnavailable`.
        """
        request = call.request
        absolute = _ABSOLUTE.fullmatch(request.raw_path)
        if call.inside is None:
            if absolute is None:
                if not request.raw_path.startswith(PREFIX.rstrip("/")):
                    raise UnknownEndpoint(f"not an endpoint of the distribution API: {request.raw_path[:100]!r}")
                return False
            if absolute[1].lower() != "http":
                raise ProxyRefused("a request to an https:// address has to come by CONNECT")
            if await self._forwarded(call, absolute):
                return True
        else:
            host = request.headers.get(hdrs.HOST) if absolute is None else absolute[2]
            if not call.inside.is_addressed_by(host):
                raise MisdirectedRequest(f"this connection is to {call.inside.authority}, not to {str(host)[:100]!r}")
        path = request.rel_url.raw_path
        if request.method in {hdrs.METH_GET, hdrs.METH_HEAD}:
            if path in {PREFIX, PREFIX.rstrip("/")}:
                return await self._relayed_base(call)
            if _PULL.fullmatch(path):
                return False
        await self.relay(call)
        return True

    async def relay(self, call: Call) -> None:
        """Let the registry behind an opened host answer; raises `OriginUnavailable`."""
        assert call.inside is not None
        call.route = "relay"
        absolute = _ABSOLUTE.fullmatch(call.request.raw_path)
        target = call.request.raw_path if absolute is None else absolute[3]
        origin = URL(f"{call.inside.scheme}://{call.inside.authority}")
        way = self._way(call.inside.registry)
        await self._relay.to_upstream(call, target if target.startswith("/") else f"/{target}", way, origin)

    async def _relayed_base(self, call: Call) -> bool:
        """`/v2/`, where registries challenge: clients sign in for pulls and pushes by what is said there.

        Where the registry cannot be reached the mirror answers, so that what it holds can be pulled.
        """
        try:
            await self.relay(call)
        except OriginUnavailable as error:
            if call.response is not None:
                raise
            log.info("relay.unavailable", path=call.request.path, error=str(error))
            return False
        return True

    # --- requests with a whole address in their first line ---------------------------------------------------------

    async def _forwarded(self, call: Call, absolute: re.Match[str]) -> bool:
        try:
            authority = Authority.parse(absolute[2], 80)
        except InvalidAuthority as error:
            raise ProxyRefused(str(error)) from None
        match self._destinations.decide("http", authority):
            case Opened() as opened:
                call.inside = opened
                return False
            case Refused(reason):
                raise ProxyRefused(reason)
            case Elsewhere(_, anywhere):
                call.route = "forward"
                target = absolute[3] if absolute[3].startswith("/") else f"/{absolute[3]}"
                url = URL(f"http://{authority}{target}", encoded=True)
                try:
                    await self._relay.to_host(call, url, anywhere=anywhere)
                except NotPermitted as error:
                    raise ProxyRefused(str(error)) from None
        return True

    # --- CONNECT ---------------------------------------------------------------------------------------------------

    def _left(self, doorway: Doorway) -> None:
        """The doorway's connection has gone on to the HTTP server, or ended."""
        task = self._tasks.get(doorway)
        if task is not None:
            task.cancel()
        else:
            self._doorways.discard(doorway)

    def _connected(self, doorway: Doorway) -> None:
        task = asyncio.create_task(self._serve(doorway), name="connect")
        self._tasks[doorway] = task

        def ended(_: asyncio.Task[None]) -> None:
            self._tasks.pop(doorway)
            self._doorways.discard(doorway)

        task.add_done_callback(ended)

    async def _serve(self, doorway: Doorway) -> None:
        began = time.monotonic()
        target, outcome, reason, sent = "", "failed", "", 0
        try:
            if len(self._tasks) + self._inside > self._settings.connections:
                raise _Refusal(503, "this proxy has as many tunnels as it may have")
            target = parse_connect(doorway.head)
            authority = Authority.parse(target, _HTTPS_PORT)
            match self._destinations.decide("https", authority):
                case Opened() as opened:
                    await self._open(doorway, opened)
                    outcome = "opened"
                case Elsewhere(_, anywhere):
                    tunnel = await self._reach(authority, anywhere)
                    outcome = "tunnelled"
                    sent = await self._tunnel(doorway, tunnel)
                case Refused(because):
                    raise _Refusal(403, because)
        except _Refusal as refusal:
            outcome, reason = "refused" if refusal.status == 403 else "failed", str(refusal)
            doorway.refuse(refusal.status, reason)
        except (BadConnect, InvalidAuthority) as error:
            reason = str(error)
            doorway.refuse(400, reason)
        except (AuthorityUnusable, OSError) as error:
            reason = str(error) or type(error).__name__
            doorway.refuse(502, f"{target[:100]}: {reason}")
        except Exception as error:  # where a connection ends
            log.exception("tunnel.error", target=target[:100])
            reason = repr(error)
            doorway.transport.abort()
        finally:
            self._metrics.connects.labels(outcome).inc()
            event = log.info if outcome in {"refused", "failed"} else log.debug
            event(
                f"tunnel.{outcome}",
                target=target[:300],
                client=doorway.peer,
                sent=sent,
                seconds=round(time.monotonic() - began, 3),
                **({"reason": reason} if reason else {}),
            )

    async def _reach(self, authority: Authority, anywhere: bool) -> Tunnel:
        """A tunnel whose far end stands; raises `_Refusal`."""
        tunnel = Tunnel(self._settings.idle_timeout)
        try:
            addresses = await resolve(authority.host, authority.port, anywhere=anywhere)
            await tunnel.connect(addresses, authority.port)
        except NotPermitted as error:
            raise _Refusal(403, str(error)) from None
        except TimeoutError:
            raise _Refusal(504, f"{authority} does not answer") from None
        except OSError as error:
            raise _Refusal(502, f"{authority} cannot be reached: {error}") from None
        return tunnel

    async def _tunnel(self, doorway: Doorway, tunnel: Tunnel) -> int:
        """Carry bytes until the end; returns how many the client was sent."""
        early = doorway.early
        doorway.establish()
        doorway.transport.set_protocol(tunnel.client)
        tunnel.client.connection_made(doorway.transport)
        if early:
            tunnel.client.data_received(early)
        doorway.transport.resume_reading()
        try:
            await tunnel.run()
        finally:
            self._metrics.tunnel_bytes.labels("up").inc(tunnel.client.received)
            self._metrics.tunnel_bytes.labels("down").inc(tunnel.host.received)
        return tunnel.host.received

    async def _open(self, doorway: Doorway, opened: Opened) -> None:
        """Start TLS as the host and let the HTTP server have what is inside."""
        if doorway.early:
            raise BadConnect("bytes came before the answer to CONNECT")
        context = self._authority.context(opened.authority.host)
        threshold = Threshold(self._server(opened), partial(self._unused, opened, doorway.peer))
        doorway.establish()
        try:
            inner = await asyncio.get_running_loop().start_tls(
                doorway.transport,
                threshold,
                context,
                server_side=True,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=_GOODBYE_SECONDS,
            )
        except OSError as error:  # `SSLError` is one
            doorway.transport.abort()
            self._untrusted(opened, doorway.peer, error)
            return
        if inner is not None:
            threshold.begin(inner, self._keepalive)

    def _unused(self, opened: Opened, peer: str, error: Exception | None) -> None:
        """A client has gone without a request; with TLS 1.3 some say only then that they do not trust the authority."""
        if isinstance(error, ssl.SSLError):
            self._untrusted(opened, peer, error)

    def _untrusted(self, opened: Opened, peer: str, error: OSError) -> None:
        self._metrics.connects.labels("untrusted").inc()
        log.warning(
            "tunnel.untrusted",
            host=str(opened.authority),
            client=peer,
            error=str(error) or type(error).__name__,
            hint="the client has to trust the certificate that `shoal config ca` shows",
        )

    def _server(self, opened: Opened) -> web.Server:
        """The HTTP server inside an opened host; there are as many as the configuration names hosts."""
        server = self._servers.get(opened)
        if server is None:
            loop = asyncio.get_running_loop()
            server = web.Server(
                partial(self._answer_inside, opened),
                request_factory=lambda message, payload, protocol, writer, task: web.Request(
                    message, payload, protocol, writer, task, loop
                ),
                handler_cancellation=True,
                access_log=None,
                auto_decompress=False,
                keepalive_timeout=self._keepalive,
            )
            self._servers[opened] = server
        return server

    async def _answer_inside(self, opened: Opened, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # an answer may begin
        return await self._handle(cast("web.Request", request), opened)


class _Refusal(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
