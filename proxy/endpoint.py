"""One address of a registry over HTTP: signing in, redirects, TLS, and the client library's errors as the origin's."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from yarl import URL

from peer.account import Cause, waiting_for
from peer.origin import OriginDenied, OriginError, OriginUnavailable
from proxy.addresses import NotPermitted, PublicResolver
from proxy.authorization import CATALOG, Authorizer, token_scope
from proxy.challenge import parse_challenges
from proxy.credentials import NodeCredentials
from proxy.egress import Egress
from proxy.identity import ANONYMOUS, Identity
from proxy.reach import Reach
from proxy.retry import ANSWER_SECONDS, Silent, Unreachable, failure, read_whole
from proxy.settings import CredentialsUnreadable, EndpointSettings
from proxy.tokens import MAX_ANSWER_SIZE, InvalidTokenAnswer, Token, TokenCache, TokenScope, parse_token
from shoal.redaction import redacted
from shoal.reference import Registry

MAX_REDIRECTS = 5

_MAX_SIGN_INS = 2
"""Answers of 401 that are met with new credentials: one for a challenge, one for a token that has expired meanwhile."""

TOKEN_SECONDS = ANSWER_SECONDS - 0.5
"""How long a token server has: less than the whole answer, so that the client is told who was silent."""

_MAX_SHOWN = 200
"""Characters of a server's own words in an error."""

_QUOTED = re.compile(r":?\s*b?(['\"]).*\1.*", re.DOTALL)
"""What is quoted, and all behind it."""

_READ_SIZE = 1 << 20
_MAX_HEADER_SIZE = 64 << 10
"""Signed addresses of storage services are long."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CLIENT_ID = "shoal"
_ADDRESS = string.punctuation
"""What stands in a redirect's address as it came, besides letters and digits: its signature may hold any of it."""


@dataclass(frozen=True, slots=True)
class Sessions:
    """The HTTP clients for all upstreams: bodies as they are, no cookies, no redirects without being looked at.

    Two, since each keeps connections for the next request to a host, and judges a host when it connects.
    """

    anywhere: aiohttp.ClientSession
    """For hosts that the configuration names."""
    public: aiohttp.ClientSession
    """For all others: connects to public addresses only."""

    @classmethod
    def open(cls, connections: int, public: PublicResolver, traced: Sequence[aiohttp.TraceConfig] = ()) -> Self:
        """To be closed. Up to so many connections to hosts that are named, and as many to others. `traced`: as
        `shoal.traces` gives it."""
        return cls(_open_session(connections, None, traced), _open_session(connections, public, traced))

    async def close(self) -> None:
        await self.anywhere.close()
        await self.public.close()

    def of(self, *, named: bool) -> aiohttp.ClientSession:
        return self.anywhere if named else self.public


@dataclass(frozen=True, slots=True)
class Question:
    """A request to a registry, without its address and who asks. `name`: the repository, or what a scope is for."""

    method: str
    name: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    """As it stands in the address."""

    signed: bool = True
    """Whether the upstream's challenges are answered. Without, the answer is what it says to somebody unknown."""


class Endpoint:
    """A registry's own address, or that of a mirror of it."""

    def __init__(
        self,
        registry: Registry,
        settings: EndpointSettings,
        egress: Egress,
        sessions: Callable[[], Sessions],
        clock: Callable[[], float],
        *,
        public_only: bool,
    ) -> None:
        """`registry`: its name in a `docker_config`. `sessions` gives the HTTP clients.

        `public_only`: nothing is asked for without TLS, or at other addresses.

        Raises `CredentialsUnreadable`.
        """
        self.settings = settings
        self.credentials = NodeCredentials(registry, settings, clock)
        self._base = URL(settings.url)
        self.host = str(self._base.host)
        """The name under which errors speak of it."""
        self._egress = egress
        self._sessions = sessions
        self._reach = Reach(self._base, settings.redirects, egress.hosts, public_only=public_only)
        self._public_only = public_only
        self._own_tls, self._other_tls = tls_contexts(settings)
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=settings.connect_timeout, sock_read=settings.read_timeout
        )
        self._authorizer = Authorizer(self._base, self._fetch_token, clock)
        self._elsewhere = TokenCache(self._ask_elsewhere, clock)

    async def close(self) -> None:
        """Give up tokens and credentials that are being fetched."""
        await self.credentials.close()
        await self._authorizer.close()
        await self._elsewhere.close()

    async def ask(self, question: Question, identity: Identity) -> aiohttp.ClientResponse:
        """The answer, signed in and redirected, of whatever status; the caller closes it. Raises `OriginError`.

        A token that had been taken and now meets 400 or 403 is asked for anew, once: some registries say so that it
        has expired.
        """
        url = self._url(question)
        authorizer, name = self._authorizer, question.name
        for last in (False,) * (_MAX_SIGN_INS * question.signed) + (True,):
            try:
                with waiting_for(Cause.TOKEN):
                    sent = await authorizer.header(identity, name) if question.signed else None
            except OriginDenied:
                self._refused(identity)
                raise
            response = await self._follow(question.method, url, question.headers, sent)
            try:
                if not self.is_own(response.url):
                    authorizer.accepted(name, identity, sent)  # who sends him on has let him in
                    return response
                if response.status == 401:
                    hopeful = authorizer.learn(response.headers.getall("WWW-Authenticate", []), name, identity, sent)
                else:
                    hopeful = response.status in {400, 403} and authorizer.refused(name, identity, sent)
            except BaseException:
                response.close()
                raise
            if last or not hopeful:
                break
            response.close()
        if response.status < 400:
            authorizer.accepted(name, identity, sent)
        elif response.status in {401, 403}:
            self._refused(identity)
        return response

    def is_own(self, url: URL) -> bool:
        """Whether an address is at this endpoint, not behind a redirect."""
        return url.origin() == self._base.origin()

    def challenges(self, name: str) -> tuple[str, ...]:
        """The last `WWW-Authenticate` headers about a repository."""
        return self._authorizer.challenges(name)

    def _refused(self, identity: Identity) -> None:
        if not identity.is_client and identity is not ANONYMOUS:
            self.credentials.refused()

    def _url(self, question: Question) -> URL:
        name = "" if question.name == CATALOG else question.name
        path = "/".join(part for part in ("v2", name, question.path) if part)
        url = self._base.joinpath(*path.split("/")) if question.path else self._base.joinpath("v2", "")
        return URL(f"{url}?{question.query}", encoded=True) if question.query else url

    async def _follow(
        self, method: str, url: URL, headers: Mapping[str, str], authorization: str | None
    ) -> aiohttp.ClientResponse:
        """The answer behind redirects. No host but the endpoint's own is shown its credentials."""
        elsewhere: str | None = None
        for _ in range(MAX_REDIRECTS + 1):
            own = self.is_own(url)
            response = await self._request(method, url, headers, authorization if own else elsewhere)
            for _ in range(0 if own else _MAX_SIGN_INS):
                if response.status != 401:
                    break
                challenges = response.headers.getall("WWW-Authenticate", [])
                response.close()
                with waiting_for(Cause.TOKEN):
                    elsewhere = await self._sign_in_elsewhere(url, challenges, elsewhere)
                response = await self._request(method, url, headers, elsewhere)
            target = response.headers.get("Location")
            if response.status not in _REDIRECTS or target is None:
                return response
            response.release()
            url, before = self._target(url, target), url
            if url.origin() != before.origin():
                elsewhere = None
        raise OriginUnavailable(f"{self.host} redirects more than {MAX_REDIRECTS} times")

    async def _request(
        self, method: str, url: URL, headers: Mapping[str, str], authorization: str | None
    ) -> aiohttp.ClientResponse:
        signed = {**headers, "Authorization": authorization} if authorization is not None else headers
        with translated(self.host if url.host is None else url.host), waiting_for(Cause.ORIGIN_ANSWER):
            return await self._send(method, url, headers=signed)

    async def _send(self, method: str, url: URL, **options: Any) -> aiohttp.ClientResponse:
        """One request, by the way out that is set and with the TLS that the host may see."""
        proxy = self._egress.proxy_for(url, self.settings.http_proxy)
        named = self._reach.is_named(url)
        try:
            if not named:
                self._reach.check(url, is_direct=proxy is None)
            return (
                await self._sessions()
                .of(named=named)
                .request(
                    method,
                    url.with_user(None),
                    timeout=self._timeout,
                    allow_redirects=False,
                    proxy=proxy,
                    ssl=self._own_tls if self.is_own(url) else self._other_tls,
                    **options,
                )
            )
        except NotPermitted as error:
            raise self._astray(error) from None

    def _astray(self, error: NotPermitted) -> OriginError:
        """What is said where the upstream leads to what may be somebody's inside."""
        if self._public_only:
            return OriginDenied(f"{self.host} leads astray: {error}")
        return OriginUnavailable(
            f"{self.host} leads to a host that its configuration does not name: {error} "
            "(the upstream's `redirects` names hosts that it may send to)"
        )

    def _target(self, url: URL, location: str) -> URL:
        """Where a redirect leads. It is not shown in errors: it may be signed."""
        try:
            target = url.join(URL(quote(location, safe=_ADDRESS, errors="surrogateescape"), encoded=True))
            is_address = target.scheme in {"http", "https"} and target.host and target.port
        except ValueError:
            is_address = False
        if not is_address:
            raise OriginUnavailable(f"{url.host} redirects to what is no address")
        if url.scheme == "https" and target.scheme != "https":
            raise OriginUnavailable(f"{url.host} redirects to {target.host} without TLS")
        return target

    async def _sign_in_elsewhere(self, url: URL, challenges: list[str], refused: str | None) -> str:
        """What another registry wants of who was redirected there: a token for nobody, another one than `refused`.

        Raises `OriginError`.
        """
        for challenge in parse_challenges(challenges):
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                scope = token_scope(challenge, "", url)
                if refused is not None:
                    self._elsewhere.drop(ANONYMOUS, scope, refused.removeprefix("Bearer "))
                return f"Bearer {await self._elsewhere.get(ANONYMOUS, scope)}"
        raise OriginDenied(f"{self.host} redirects to {url.host}, which wants to be signed in to")

    async def _ask_elsewhere(self, identity: Identity, scope: TokenScope) -> Token:
        return await self._fetch_token(URL(scope.realm), scope, identity)

    async def _fetch_token(self, url: URL, scope: TokenScope, identity: Identity) -> Token:
        """A token from a token server, bounded in time as a whole."""
        try:
            async with asyncio.timeout(TOKEN_SECONDS):
                return await self._ask_token_server(url, scope, identity)
        except TimeoutError:
            raise Silent(f"the token server {url.host} gave no answer within {TOKEN_SECONDS:g} s") from None

    async def _ask_token_server(self, url: URL, scope: TokenScope, identity: Identity) -> Token:
        wanted = {name: text for name, text in (("service", scope.service), ("scope", scope.scope)) if text}
        headers, form, scopes = {}, None, scope.scope.split(" ")
        if identity.identity_token is not None:  # distribution's OAuth2 form
            form = {
                **wanted,
                "grant_type": "refresh_token",
                "refresh_token": identity.identity_token,
                "client_id": _CLIENT_ID,
            }
        else:
            url = url.update_query(
                [*(("service", scope.service),) * bool(scope.service), *(("scope", s) for s in scopes if s)]
            )
            if identity.authorization is not None:
                headers["Authorization"] = identity.authorization
        with translated(f"the token server {url.host}"):
            async with await self._send("GET" if form is None else "POST", url, headers=headers, data=form) as response:
                if response.status != 200:
                    message = f"the token server {url.host} answered {response.status}"
                    raise OriginDenied(message) if response.status in {400, 401, 403} else failure(response, message)
                answer = await read_whole(response, MAX_ANSWER_SIZE)
        try:
            return parse_token(answer)
        except InvalidTokenAnswer as error:
            raise OriginUnavailable(f"the token server {url.host}: {error}") from None


def tls_contexts(settings: EndpointSettings) -> tuple[ssl.SSLContext | bool, ssl.SSLContext | bool]:
    """How to meet the endpoint itself, and hosts that it sends to: those are not shown this node's certificate.

    Raises `CredentialsUnreadable`.
    """
    if not settings.ca_file and not settings.cert_file:
        return True, True
    try:
        own, other = ssl.create_default_context(), ssl.create_default_context()
        if settings.ca_file:
            for context in (own, other):
                context.load_verify_locations(settings.ca_file)
        if settings.cert_file:
            own.load_cert_chain(settings.cert_file, settings.key_file, password="")  # not asked for at a terminal
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(filter(None, (settings.ca_file, settings.cert_file, settings.key_file)))
        raise CredentialsUnreadable(f"`ca_file`, `cert_file` or `key_file` ({files}) cannot be used: {error}") from None
    return own, other


def _open_session(
    connections: int, resolver: PublicResolver | None, traced: Sequence[aiohttp.TraceConfig]
) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, resolver=resolver),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "shoal", "Accept-Encoding": "identity"},
        auto_decompress=False,
        trace_configs=list(traced),
        read_bufsize=_READ_SIZE,
        max_line_size=_MAX_HEADER_SIZE,
        max_field_size=_MAX_HEADER_SIZE,
    )


@contextlib.contextmanager
def translated(host: str) -> Iterator[None]:
    """Errors of the HTTP client as the origin's; each names the host and the cause."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        reason = getattr(error.certificate_error, "verify_message", "") or error.certificate_error
        raise OriginUnavailable(
            f"{host}: its certificate is not trusted: {reason} (the upstream's `ca_file` names its authority)"
        ) from None
    except aiohttp.ClientConnectorSSLError as error:
        raise OriginUnavailable(f"{host}: TLS fails: {error.os_error}") from None
    except aiohttp.ClientConnectorDNSError as error:
        raise Unreachable(f"{host}: the name {error.host} does not resolve: {error.os_error}") from None
    except aiohttp.ClientProxyConnectionError as error:
        raise Unreachable(
            f"{host}: the HTTP proxy {error.host}:{error.port} is not reached: {error.os_error}"
        ) from None
    except aiohttp.ClientHttpProxyError as error:
        raise Unreachable(f"{host}: the HTTP proxy refuses: {error.status} {_shown(error.message)}") from None
    except aiohttp.ClientResponseError as error:  # in its own text stands the address, which may be signed
        raise Unreachable(f"{host} answers what is no HTTP: {_shown(error.message)}") from None
    except aiohttp.ClientConnectorError as error:
        raise Unreachable(f"{host}: cannot connect to {error.host}:{error.port}: {error.os_error}") from None
    except (aiohttp.InvalidURL, UnicodeError):
        raise OriginUnavailable(f"{host}: not an address") from None
    except TimeoutError:
        raise Unreachable(f"{host} did not answer in time") from None
    except (aiohttp.ClientError, OSError) as error:
        raise Unreachable(f"{host}: {_shown(str(error)) or type(error).__name__}") from None


def _shown(text: str) -> str:
    """What a server or the HTTP client says, as it may stand in an error.

    Its bytes, which the HTTP client quotes behind a colon, may be those of a signed address or of a cookie.
    """
    said = _QUOTED.sub("", text).strip()
    return redacted(said.encode("ascii", "backslashreplace").decode()[:_MAX_SHOWN])
