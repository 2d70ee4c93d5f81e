"""Forward-proxy mode: clients that have the mirror as `HTTPS_PROXY` or `HTTP_PROXY` reach every registry through it.

Behind CONNECT a host that the configuration names is opened with a certificate of the node's own authority: pulls are
answered like all others, as if `ns=` named the registry, and everything else (pushes, token servers on the registry's
own host) is relayed. Other hosts are tunnelled or refused.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from typing import Self

import structlog
from aiohttp import hdrs
from yarl import URL

from peer.origin import OriginUnavailable
from proxy.addresses import NotPermitted
from proxy.certificates import AuthorityFiles, CertificateAuthority
from proxy.connects import Connects, Handler
from proxy.destinations import (
    Authority,
    Destinations,
    Elsewhere,
    InvalidAuthority,
    Opened,
    Reachable,
    Refused,
    TunnelSettings,
    is_pull,
)
from proxy.errors import MisdirectedRequest, ProxyRefused, UnknownEndpoint
from proxy.metrics import ProxyMetrics
from proxy.naming import PREFIX
from proxy.relay import Relay, Way, ways
from proxy.responses import Call
from proxy.settings import ProxySettings
from shoal.audit import Audit
from shoal.reference import InvalidReference, Location

log = structlog.get_logger()

_HTTP_PORT = 80
_CHANGES = frozenset({hdrs.METH_PUT, hdrs.METH_DELETE})
_MANIFEST = re.compile(r"/v2/(.+)/manifests/[^/]+")
_ABSOLUTE = re.compile(r"(https?)://([^/?#]+)([^#]*)", re.IGNORECASE)

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
        audit: Audit | None = None,
        changed: Callable[[Location], None] = lambda _: None,
        *,
        shutdown_timeout: float,
    ) -> None:
        """`way` tells how an upstream is reached; `handle` answers requests of opened hosts.

        `changed` is told of repositories to which a client has pushed through here. Times in seconds.
        """
        self._way = way
        self._changed = changed
        self._authority = authority
        self._others = settings.others
        self._destinations = Destinations(settings, upstreams)
        self._relay = Relay(settings.idle_timeout)
        self.connects = Connects(
            settings, self._destinations, authority, handle, metrics, audit, shutdown_timeout=shutdown_timeout
        )

    @property
    def authority_ends(self) -> float:
        """When the authority that clients trust ends, in seconds since the epoch."""
        return self._authority.expires.timestamp()

    @classmethod
    def of(
        cls,
        settings: ProxySettings,
        handle: Handler,
        metrics: ProxyMetrics,
        audit: Audit | None,
        changed: Callable[[Location], None],
    ) -> Self:
        """As the configuration has it; raises `AuthorityUnusable` and `CredentialsUnreadable`."""
        return cls(
            settings.tunnel,
            settings.upstreams,
            AuthorityFiles(settings.tunnel.ca).open(),
            ways(settings),
            handle,
            metrics,
            audit,
            changed,
            shutdown_timeout=settings.shutdown_timeout,
        )

    def prepare(self, settings: ProxySettings) -> Callable[[], None]:
        """Other upstreams, which are opened and relayed to when what is returned is called.

        Raises `CredentialsUnreadable`.
        """
        way, destinations = ways(settings), Destinations(settings.tunnel, settings.upstreams)

        def take_over() -> None:
            self._way, self._destinations, self.connects.destinations = way, destinations, destinations

        return take_over

    async def __aenter__(self) -> Self:
        await self._relay.__aenter__()
        log.info("tunnel.ready", hosts=self._destinations.opened_hosts, others=self._others)
        if self._authority.expires_soon:
            log.warning("tunnel.authority_expires", on=f"{self._authority.expires:%Y-%m-%d}")
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.connects.__aexit__()
        finally:
            await self._relay.__aexit__()

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
            if is_pull(path):
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
        status = await self._relay.to_upstream(call, target if target.startswith("/") else f"/{target}", way, origin)
        pushed = _MANIFEST.fullmatch(call.request.path) if call.request.method in _CHANGES and status < 300 else None
        if pushed is not None:
            with contextlib.suppress(InvalidReference):
                self._changed(Location.parse(call.inside.registry, pushed[1]))

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

    async def _forwarded(self, call: Call, absolute: re.Match[str]) -> bool:
        """A request with a whole address in its first line: False, with `call.inside` set, where that is opened."""
        try:
            authority = Authority.parse(absolute[2], _HTTP_PORT)
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
