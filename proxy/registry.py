"""One upstream registry over HTTP: signing in, redirects, and the client library's errors as the origin's."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime

import aiohttp
from yarl import URL

from peer.origin import OriginDenied, OriginNotFound, OriginUnavailable
from proxy.authorization import Authorizer
from proxy.retry import Transient, parse_retry_after, read_whole
from proxy.settings import UpstreamSettings
from proxy.tokens import MAX_ANSWER_SIZE, InvalidTokenAnswer, Token, parse_token
from shoal.reference import Registry, Repository

MAX_REDIRECTS = 5

_MAX_SIGN_INS = 2
"""Answers of 401 that are met with new credentials: one for a challenge, one for a token that has expired meanwhile."""

_READ_SIZE = 1 << 20
_MAX_HEADER_SIZE = 64 << 10
"""Signed addresses of storage services are long."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


def open_session(connections: int) -> aiohttp.ClientSession:
    """The HTTP client for all upstreams: bodies as they are, no cookies, no redirects without being looked at."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "shoal", "Accept-Encoding": "identity"},
        auto_decompress=False,
        read_bufsize=_READ_SIZE,
        max_line_size=_MAX_HEADER_SIZE,
        max_field_size=_MAX_HEADER_SIZE,
    )


class UpstreamRegistry:
    """A configured registry and how it wants to be asked."""

    def __init__(
        self,
        name: Registry,
        settings: UpstreamSettings,
        session: Callable[[], aiohttp.ClientSession],
        clock: Callable[[], float],
    ) -> None:
        """`session` gives the HTTP client. Raises `ValueError` for a password file that cannot be read."""
        self.name = name
        self.settings = settings
        self._session = session
        self._base = URL(settings.url)
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=settings.connect_timeout, sock_read=settings.read_timeout
        )
        self._authorizer = Authorizer(self._base, settings.credentials(), self._fetch_token, clock)

    async def close(self) -> None:
        """Give up tokens that are being fetched."""
        await self._authorizer.close()

    @contextlib.asynccontextmanager
    async def opened(
        self,
        repository: Repository,
        method: str,
        path: str,
        headers: Mapping[str, str],
        query: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """`open`, and close in the end; what breaks meanwhile is an `OriginError`."""
        response = await self.open(repository, method, path, headers, query)
        try:
            with _translated(self.name):
                yield response
        finally:
            response.close()

    async def open(
        self,
        repository: Repository,
        method: str,
        path: str,
        headers: Mapping[str, str],
        query: Mapping[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        """A response of status 200 or 206, or 416 to a range, signed in and redirected; raises `OriginError`."""
        url = self._base.joinpath("v2", *repository.split("/"), *path.split("/")).with_query(query or None)
        for _ in range(_MAX_SIGN_INS + 1):
            sent = await self._authorizer.header(repository)
            with _translated(self.name):
                response = await self._follow(method, url, headers, sent)
            if response.status in {200, 206} or (response.status == 416 and "Range" in headers):
                return response
            response.close()
            if response.status != 401:
                raise self._refusal(response)
            challenges = response.headers.getall("WWW-Authenticate", [])
            if response.url.origin() != self._base.origin() or not self._authorizer.learn(challenges, repository, sent):
                break
        raise OriginDenied(f"{self.name} does not let this node read {repository} (status 401)")

    async def _follow(
        self, method: str, url: URL, headers: Mapping[str, str], authorization: str | None
    ) -> aiohttp.ClientResponse:
        """The response at the end of all redirects. Only the upstream itself is shown `authorization`."""
        for _ in range(MAX_REDIRECTS + 1):
            own = url.origin() == self._base.origin()
            signed = {**headers, "Authorization": authorization} if authorization is not None and own else headers
            response = await self._session().request(
                method, url, headers=signed, timeout=self._timeout, allow_redirects=False
            )
            target = response.headers.get("Location")
            if response.status not in _REDIRECTS or target is None:
                return response
            response.release()
            try:
                url = url.join(URL(target, encoded=True))
            except ValueError:
                raise OriginUnavailable(f"{self.name} redirects to {target[:200]!r}") from None
            if url.scheme not in {"http", "https"} or not url.host:
                raise OriginUnavailable(f"{self.name} redirects to {target[:200]!r}")
        raise OriginUnavailable(f"{self.name} redirects more than {MAX_REDIRECTS} times")

    async def _fetch_token(self, url: URL, authorization: str | None) -> Token:
        headers = {"Authorization": authorization} if authorization is not None else {}
        with _translated(str(url.host)):
            async with self._session().get(
                url, headers=headers, timeout=self._timeout, allow_redirects=False
            ) as response:
                if response.status != 200:
                    message = f"the token server {url.host} answered {response.status}"
                    raise OriginDenied(message) if response.status in {401, 403} else _failure(response, message)
                answer = await read_whole(response, MAX_ANSWER_SIZE)
        try:
            return parse_token(answer)
        except InvalidTokenAnswer as error:
            raise OriginUnavailable(f"{url.host}: {error}") from None

    def _refusal(self, response: aiohttp.ClientResponse) -> OriginUnavailable | OriginDenied | OriginNotFound:
        """The error for a status that is neither success nor a challenge."""
        message = f"{self.name} answered {response.status} to {response.method} {response.url.path}"
        if response.status in {404, 410}:
            return OriginNotFound(message)
        return OriginDenied(message) if response.status == 403 else _failure(response, message)


def _failure(response: aiohttp.ClientResponse, message: str) -> OriginUnavailable:
    if response.status in _TRANSIENT:
        return Transient(message, parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC)))
    return OriginUnavailable(message)


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    """Errors of the HTTP client as the origin's."""
    try:
        yield
    except (aiohttp.ClientConnectorCertificateError, aiohttp.InvalidURL) as error:
        raise OriginUnavailable(f"{name}: {error}") from None
    except TimeoutError:
        raise Transient(f"{name} did not answer in time") from None
    except (aiohttp.ClientError, OSError) as error:
        raise Transient(f"{name}: {error}") from None
