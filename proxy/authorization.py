"""How one upstream wants its requests authenticated: learned from its 401 answers, remembered for the next request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from yarl import URL

from peer.origin import OriginDenied, OriginUnavailable
from proxy.challenge import Challenge, parse_challenges
from proxy.identity import Identity
from proxy.tokens import Token, TokenCache, TokenScope
from shoal.recent import Recent

_MAX_SCOPES = 1000
"""Repositories of which it is known what the upstream wants: for another one it says so again."""

_MAX_CHALLENGES, _MAX_CHALLENGE = 8, 4096
"""Headers of one answer that are kept, and characters of each: they are passed on to clients, whole or not at all."""

FetchToken = Callable[[URL, TokenScope, Identity], Awaitable[Token]]
"""Asks a token server at this address (without parameters), as somebody."""


class Authorizer:
    """The `Authorization` header for each of an upstream's repositories: none, `Basic`, or `Bearer` with a token.

    What the upstream wants is the same for all who ask; what answers it is each one's own. A scope is named by the
    repository, or by what else is asked for (empty: the registry as such).
    """

    def __init__(self, base: URL, fetch: FetchToken, clock: Callable[[], float]) -> None:
        self._base = base
        self._basic_wanted = False
        self._issuer: tuple[str, str] | None = None
        self._scopes: Recent[str, TokenScope] = Recent(_MAX_SCOPES)
        self._challenges: Recent[str, tuple[str, ...]] = Recent(_MAX_SCOPES)
        self._fetch = fetch
        self._tokens = TokenCache(self._ask, clock)

    async def header(self, identity: Identity, name: str) -> str | None:
        """What to send, as far as the upstream has said what it wants; raises `OriginError` where no token comes."""
        if identity.is_token or self._basic_wanted:
            return identity.authorization
        scope = self._scope(name)
        if scope is None:
            return None
        try:
            return f"Bearer {await self._tokens.get(identity, scope)}"
        except OriginDenied as error:
            challenges = self.challenges(name)
            if not challenges:  # the scope was a guess: the upstream itself says what it wants of whom
                return None
            raise OriginDenied(str(error), challenges) from None

    def challenges(self, name: str) -> tuple[str, ...]:
        """The upstream's last `WWW-Authenticate` headers about `name`, as they came if they are UTF-8."""
        return self._challenges.get(name, ())

    def learn(self, headers: Sequence[str], name: str, identity: Identity, sent: str | None) -> bool:
        """Take in the `WWW-Authenticate` headers of a 401 to a request that carried `sent`.

        True where another try has a chance. Raises `OriginDenied` for a challenge that must not be answered.
        """
        short = [header for header in headers if len(header) <= _MAX_CHALLENGE]
        self._challenges.put(name, tuple(_sendable(header) for header in short[:_MAX_CHALLENGES]))
        self._drop(name, identity, sent)
        if identity.is_token:
            return False
        challenges = parse_challenges(headers)
        bearer = next((each for each in challenges if each.scheme == "bearer" and "realm" in each.parameters), None)
        if bearer is not None:
            self._want_bearer(bearer, name)
            return True
        if any(each.scheme == "basic" for each in challenges):
            self._basic_wanted, self._issuer = True, None
            self._scopes.clear()
            return identity.authorization is not None and sent != identity.authorization
        return False

    def accepted(self, name: str, identity: Identity, sent: str | None) -> None:
        """The upstream took what was sent."""
        scope = self._scope(name)
        if scope is not None and sent is not None:
            self._tokens.taken(identity, scope, sent.removeprefix("Bearer "))

    def refused(self, name: str, identity: Identity, sent: str | None) -> bool:
        """The upstream answered 400 or 403: true where a new token may help, since this one had been taken before."""
        scope = self._scope(name)
        if scope is None or sent is None or identity.is_token:
            return False
        is_worn = self._tokens.is_worn(identity, scope, sent.removeprefix("Bearer "))
        if is_worn:
            self._drop(name, identity, sent)
        return is_worn

    async def close(self) -> None:
        """Give up what is being asked."""
        await self._tokens.close()

    def _drop(self, name: str, identity: Identity, sent: str | None) -> None:
        scope = self._scope(name)
        if scope is not None and sent is not None and sent.startswith("Bearer "):
            self._tokens.drop(identity, scope, sent.removeprefix("Bearer "))

    def _want_bearer(self, challenge: Challenge, name: str) -> None:
        scope = token_scope(challenge, _pull_scope(name), self._base)
        self._basic_wanted = False
        self._issuer = scope.realm, scope.service
        self._scopes.put(name, scope)

    def _scope(self, name: str) -> TokenScope | None:
        """The scope that the upstream named, or for a new repository the one that it will name: one request less."""
        named = self._scopes.get(name)
        if named is not None or self._issuer is None:
            return named
        realm, service = self._issuer
        return TokenScope(realm, service, _pull_scope(name))

    async def _ask(self, identity: Identity, scope: TokenScope) -> Token:
        try:
            url = URL(scope.realm)
        except ValueError:
            raise OriginUnavailable(f"{self._base.host} names no usable token server") from None
        return await self._fetch(url, scope, identity)


class NoTokenServer(OriginDenied):
    """A registry asks for a login, and names nobody who could be asked for a token."""


def token_scope(challenge: Challenge, default: str, base: URL) -> TokenScope:
    """What a `Bearer` challenge of the host at `base` asks for; raises `NoTokenServer` where its realm is no good."""
    realm, service = challenge.parameters.get("realm", ""), challenge.parameters.get("service", "")
    try:
        url = URL(realm)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise NoTokenServer(f"{base.host} names no usable token server")
    if base.scheme == "https" and url.scheme != "https":
        raise OriginDenied(f"{base.host} names a token server without TLS: {url.host}")
    return TokenScope(realm, service, challenge.parameters.get("scope") or default)


def _sendable(header: str) -> str:
    """A header as it can be sent on: what came in another encoding than UTF-8 cannot."""
    return header.encode("utf-8", "replace").decode()


def _pull_scope(name: str) -> str:
    """The scope for reading a repository; none for the registry as such, and its own for the catalog."""
    if name == CATALOG:
        return "registry:catalog:*"
    return f"repository:{name}:pull" if name else ""


CATALOG = "*"
"""Stands for the list of all repositories, which no repository is named like."""
