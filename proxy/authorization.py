"""How one upstream wants its requests authenticated: learned from its 401 answers, remembered for the next request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable

import aiohttp
from yarl import URL

from peer.origin import OriginDenied, OriginUnavailable
from proxy.challenge import Challenge, parse_challenges
from proxy.tokens import Token, TokenCache, TokenScope
from shoal.reference import Repository

_MAX_SCOPES = 10_000
FetchToken = Callable[[URL, str | None], Awaitable[Token]]
"""Asks a token server: its URL with parameters, and the `Authorization` header to send, if any."""


class Authorizer:
    """The `Authorization` header for each of an upstream's repositories: none, `Basic`, or `Bearer` with a token."""

    def __init__(
        self, base: URL, credentials: tuple[str, str] | None, fetch: FetchToken, clock: Callable[[], float]
    ) -> None:
        self._base = base
        self._basic = aiohttp.encode_basic_auth(*credentials) if credentials is not None else None
        self._basic_wanted = False
        self._issuer: tuple[str, str] | None = None
        self._scopes: OrderedDict[Repository, TokenScope] = OrderedDict()
        self._fetch = fetch
        self._tokens = TokenCache(self._ask, clock)

    async def header(self, repository: Repository) -> str | None:
        """What to send, as far as the upstream has said what it wants; raises `OriginError` where no token comes."""
        if self._basic_wanted:
            return self._basic
        scope = self._scope(repository)
        return None if scope is None else f"Bearer {await self._tokens.get(scope)}"

    def learn(self, headers: Iterable[str], repository: Repository, sent: str | None) -> bool:
        """Take in the `WWW-Authenticate` headers of a 401 to a request that carried `sent`.

        True where another try has a chance. Raises `OriginDenied` for a challenge that must not be answered.
        """
        if sent is not None and sent.startswith("Bearer "):
            scope = self._scope(repository)
            if scope is not None:
                self._tokens.drop(scope, sent.removeprefix("Bearer "))
        challenges = parse_challenges(headers)
        bearer = next((each for each in challenges if each.scheme == "bearer" and "realm" in each.parameters), None)
        if bearer is not None:
            self._want_bearer(bearer, repository)
            return True
        if self._basic is not None and sent != self._basic and any(each.scheme == "basic" for each in challenges):
            self._basic_wanted = True
            return True
        return False

    async def close(self) -> None:
        """Give up what is being asked."""
        await self._tokens.close()

    def _want_bearer(self, challenge: Challenge, repository: Repository) -> None:
        realm, service = challenge.parameters["realm"], challenge.parameters.get("service", "")
        try:
            url = URL(realm)
        except ValueError:
            raise OriginDenied(f"{self._base.host} names no usable token server: {realm[:200]!r}") from None
        if url.scheme not in {"http", "https"} or not url.host:
            raise OriginDenied(f"{self._base.host} names no usable token server: {realm[:200]!r}")
        if self._base.scheme == "https" and url.scheme != "https":
            raise OriginDenied(f"{self._base.host} names a token server without TLS: {realm[:200]!r}")
        scope = challenge.parameters.get("scope") or _pull_scope(repository)
        self._basic_wanted = False
        self._issuer = realm, service
        self._scopes[repository] = TokenScope(realm, service, scope)
        self._scopes.move_to_end(repository)
        if len(self._scopes) > _MAX_SCOPES:
            self._scopes.popitem(last=False)

    def _scope(self, repository: Repository) -> TokenScope | None:
        """The scope that the upstream named, or for a new repository the one that it will name: one request less."""
        named = self._scopes.get(repository)
        if named is not None or self._issuer is None:
            return named
        realm, service = self._issuer
        return TokenScope(realm, service, _pull_scope(repository))

    async def _ask(self, scope: TokenScope) -> Token:
        query = {"service": scope.service} if scope.service else {}
        try:
            url = URL(scope.realm).update_query({**query, "scope": scope.scope})
        except ValueError as error:
            raise OriginUnavailable(f"no usable token server: {error}") from None
        return await self._fetch(url, self._basic)


def _pull_scope(repository: Repository) -> str:
    return f"repository:{repository}:pull"
