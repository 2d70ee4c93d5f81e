"""Requests that the mirror does not answer itself: to the host that they are meant for, and what that answers."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from proxy.addresses import NotPermitted, PublicResolver, is_own, is_public
from proxy.client import ClientLeft
from proxy.egress import Egress
from proxy.endpoint import tls_contexts, translated
from proxy.responses import Call
from proxy.settings import ProxySettings

_READ_SIZE = 256 << 10
_MAX_HEADER_SIZE = 64 << 10
_CONNECTIONS = 64
_CONNECT_SECONDS = 5.0

_OF_ONE_CONNECTION = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
    }
)
"""Headers that are not passed on (RFC 9110, section 7.6.1); `Expect` has been answered when a body is read here."""

_REPEATABLE = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})
_NOT_ADDED = (hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE)


@dataclass(frozen=True, slots=True)
class Way:
    """How a configured upstream is reached."""

    origin: URL
    """Scheme, host and port."""
    tls: ssl.SSLContext | bool = True
    proxy: URL | None = None
    """The HTTP proxy on the way."""


def ways(settings: ProxySettings) -> Callable[[str], Way]:
    """How each configured upstream is reached; raises `CredentialsUnreadable`.

    As whoever sends the request: the node's own certificate and its password are not lent to clients.
    """
    egress = Egress(settings.http_proxy, settings.https_proxy, settings.no_proxy)
    found: dict[str, Way] = {}
    for name, upstream in settings.upstreams.items():
        url = URL(upstream.url)
        found[name] = Way(url.origin(), tls_contexts(upstream)[1], egress.proxy_for(url, upstream.http_proxy))
    return found.__getitem__


class Relay:
    """Passes requests on, as an async context manager that holds the connections."""

    def __init__(self, idle_timeout: float) -> None:
        """`idle_timeout`: seconds without a byte of a response."""
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=idle_timeout)
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self._kept = await stack.enter_async_context(_session(aiohttp.TCPConnector(limit=_CONNECTIONS)))
            # a kept connection may turn out to be closed, and only some requests can then be sent again
            self._single = await stack.enter_async_context(
                _session(aiohttp.TCPConnector(limit=_CONNECTIONS, force_close=True))
            )
            public = aiohttp.TCPConnector(
                limit=_CONNECTIONS, force_close=True, resolver=PublicResolver(), use_dns_cache=False
            )
            self._public = await stack.enter_async_context(_session(public))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def to_upstream(self, call: Call, target: str, way: Way, client_origin: URL) -> int:
        """Pass the request for `target` (path and query, as they came) on; returns the status.

        Addresses of the upstream in `Location` become the one that the client knows, `client_origin`. Raises
        `OriginUnavailable` as long as no answer has begun.
        """
        session = self._kept if call.request.method in _REPEATABLE else self._single
        url = URL(f"{way.origin}{target}", encoded=True)

        def renamed(location: str) -> str:
            return _renamed(location, way.origin, client_origin)

        return await self._pass_on(call, session, url, way, renamed)

    async def to_host(self, call: Call, url: URL, *, anywhere: bool) -> int:
        """Pass the request on to the host of `url`; returns the status. Raises `NotPermitted`, `OriginUnavailable`.

        Without `anywhere` only a public address is connected to.
        """
        literal = _address(url.host or "")
        if not anywhere and literal is not None and (not is_public(literal) or is_own(literal)):
            raise NotPermitted(f"{literal} is no public address")
        session = self._single if anywhere else self._public
        return await self._pass_on(call, session, url, Way(url.origin()), lambda location: location)

    async def _pass_on(
        self, call: Call, session: aiohttp.ClientSession, url: URL, way: Way, renamed: Callable[[str], str]
    ) -> int:
        request = call.request
        with translated(url.host or ""):
            upstream = await session.request(
                request.method,
                url,
                headers=_passed(request.headers, but=hdrs.HOST),
                data=request.content if request.body_exists else None,
                allow_redirects=False,
                timeout=self._timeout,
                ssl=way.tls,
                proxy=way.proxy,
            )
        try:
            headers = _passed(upstream.headers)
            if hdrs.LOCATION in headers:
                headers[hdrs.LOCATION] = renamed(headers[hdrs.LOCATION])
            response = web.StreamResponse(status=upstream.status, reason=upstream.reason, headers=headers)
            call.response = response
            with _client_may_leave():
                await response.prepare(request)
            async for chunk in upstream.content.iter_any():
                with _client_may_leave():
                    await response.write(chunk)
                call.relayed(len(chunk))
            with _client_may_leave():
                await response.write_eof()
        finally:
            upstream.close()
        return upstream.status


def _session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_NOT_ADDED,
        auto_decompress=False,
        read_bufsize=_READ_SIZE,
        max_line_size=_MAX_HEADER_SIZE,
        max_field_size=_MAX_HEADER_SIZE,
    )


def _passed(headers: CIMultiDictProxy[str] | Mapping[str, str], but: str = "") -> CIMultiDict[str]:
    """Without those of one connection, which `Connection` may add to."""
    named = {name.strip().lower() for name in headers.get(hdrs.CONNECTION, "").split(",")}
    dropped = _OF_ONE_CONNECTION | named | {but.lower()}
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped)


def _renamed(location: str, origin: URL, client_origin: URL) -> str:
    try:
        url = URL(location, encoded=True)
        own = url.absolute and url.origin() == origin
    except ValueError:
        return location
    if not own or origin == client_origin:
        return location
    return f"{client_origin}{url.raw_path_qs}"


def _address(host: str) -> str | None:
    try:
        return ipaddress.ip_address(host).compressed
    except ValueError:
        return None


@contextlib.contextmanager
def _client_may_leave() -> Iterator[None]:
    try:
        yield
    except ConnectionError as error:
        raise ClientLeft(str(error)) from None
