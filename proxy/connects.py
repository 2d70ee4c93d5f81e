"""CONNECT requests: hosts of registries are opened, others tunnelled or refused."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Self, cast

import structlog
from aiohttp import hdrs, web

from proxy.addresses import NotPermitted, resolve
from proxy.destinations import Authority, Destinations, Elsewhere, InvalidAuthority, Opened, Refused, TunnelSettings
from proxy.doorway import BadConnect, Doorway, Threshold, parse_connect
from proxy.errors import AuthorityUnusable
from proxy.heads import MAX_FIELD_SIZE, MAX_HEADERS
from proxy.metrics import ProxyMetrics
from proxy.tunnel import Tunnel
from shoal.audit import Audit
from shoal.guests import Guest

if TYPE_CHECKING:
    from proxy.certificates import CertificateAuthority

log = structlog.get_logger()

_HANDSHAKE_SECONDS = 10.0
_GOODBYE_SECONDS = 2.0
_REACH_SECONDS = 15.0
"""For a host's name and a connection to one of its addresses."""

_KEEPALIVE_SECONDS = 75.0
_HTTPS_PORT = 443
_MAX_SHOWN = 300

Handler = Callable[[web.Request, Opened | None], Awaitable[web.StreamResponse]]


class Connects:
    """All connections that begin with CONNECT, as an async context manager; leaving it ends them.

    Requests inside opened hosts get the time that running responses have; tunnels are cut at once.
    """

    def __init__(
        self,
        settings: TunnelSettings,
        destinations: Destinations,
        authority: CertificateAuthority,
        handle: Handler,
        metrics: ProxyMetrics,
        audit: Audit | None,
        *,
        shutdown_timeout: float,
    ) -> None:
        """`handle` answers requests inside opened hosts; `shutdown_timeout`: seconds that they get to end."""
        self._settings = settings
        self.destinations = destinations
        self._authority = authority
        self._handle = handle
        self._metrics = metrics
        self._audit = audit
        self._shutdown_timeout = shutdown_timeout
        self._servers: dict[Opened, web.Server] = {}
        self._doorways: set[Doorway] = set()
        self._tasks: dict[Doorway, asyncio.Task[None]] = {}
        self._silent = 0
        """Connections in their TLS handshake, or behind it without a byte."""
        self._ending = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for doorway in list(self._doorways):
            doorway.transport.abort()
        for server in self._servers.values():
            server.pre_shutdown()
        await asyncio.gather(*(server.shutdown(self._shutdown_timeout) for server in self._servers.values()))

    @property
    def held(self) -> int:
        """Connections inside TLS, which are no guests of the port any more."""
        return self._silent + self._inside

    @property
    def _inside(self) -> int:
        return sum(len(server.connections) for server in self._servers.values())

    def doorway(self, http: Callable[[], asyncio.BaseProtocol], guest: Guest) -> Doorway:
        """A protocol for a new connection, which goes on to `http` where it is no CONNECT request."""
        doorway = Doorway(guest, http, self._connected, self._left, _KEEPALIVE_SECONDS)
        self._doorways.add(doorway)
        return doorway

    def _left(self, doorway: Doorway) -> None:
        """The doorway's connection has gone on to the HTTP server, or ended."""
        task = self._tasks.get(doorway)
        if task is not None:
            task.cancel()
        else:
            self._doorways.discard(doorway)

    def _connected(self, doorway: Doorway) -> None:
        if self._ending:
            doorway.transport.abort()
            return
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
            asked = parse_connect(doorway.head)
            target = asked.rpartition("@")[2]  # before it a password may stand
            authority = Authority.parse(asked, _HTTPS_PORT)
            match self.destinations.decide("https", authority):
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
            seconds = round(time.monotonic() - began, 3)
            if self._audit is not None:
                self._audit.record(
                    client=doorway.peer,
                    method="CONNECT",
                    route="tunnel",
                    host=target[:_MAX_SHOWN],
                    verdict=outcome,
                    reason=reason,
                    bytes=sent,
                    seconds=seconds,
                )
            event = log.info if outcome in {"refused", "failed"} else log.debug
            event(
                f"tunnel.{outcome}",
                target=target[:_MAX_SHOWN],
                client=doorway.peer,
                sent=sent,
                seconds=seconds,
                **({"reason": reason} if reason else {}),
            )

    async def _reach(self, authority: Authority, anywhere: bool) -> Tunnel:
        """A tunnel whose far end stands; raises `_Refusal`."""
        tunnel = Tunnel(self._settings.idle_timeout)
        try:
            async with asyncio.timeout(_REACH_SECONDS):
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
        doorway.guest.become(tunnel.client)
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
        threshold = Threshold(partial(self._used, opened), partial(self._unused, opened, doorway.peer))
        doorway.establish()
        doorway.guest.depart()
        self._silent += 1
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
            self._silent -= 1
            doorway.transport.abort()
            self._untrusted(opened, doorway.peer, error)
            return
        except BaseException:
            self._silent -= 1
            raise
        if inner is not None:
            threshold.begin(inner, _KEEPALIVE_SECONDS)
        else:
            self._silent -= 1

    def _used(self, opened: Opened) -> asyncio.BaseProtocol:
        """The HTTP server's protocol for a connection that has sent a byte."""
        self._silent -= 1
        return self._server(opened)()

    def _unused(self, opened: Opened, peer: str, error: Exception | None) -> None:
        """A client has gone without a request; with TLS 1.3 some say only then that they do not trust the authority."""
        self._silent -= 1
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
                max_field_size=MAX_FIELD_SIZE,
                max_headers=MAX_HEADERS,
                keepalive_timeout=_KEEPALIVE_SECONDS,
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
