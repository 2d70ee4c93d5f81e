"""Bearer tokens of registries, kept until shortly before they expire (distribution's token authentication)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from proxy.flight import SingleFlight
from proxy.identity import Identity
from shoal.recent import Recent

DEFAULT_LIFETIME = 60.0
"""Seconds that a token lasts where the answer does not say it, by distribution's specification."""

MAX_ANSWER_SIZE = 1 << 20
_LIFETIME_USED = 0.9
"""A token is taken as expired after this part of its lifetime, so that no request meets its end on the way."""

_MAX_TOKENS = 4096
_MAX_LENGTH = 32 << 10
"""Characters of a token: servers take no longer headers, and many tokens are held."""


class InvalidTokenAnswer(ValueError):
    """A token server's answer without a usable token."""


@dataclass(frozen=True, slots=True)
class TokenScope:
    """What a token is asked for: parameters of a `Bearer` challenge."""

    realm: str
    service: str
    scope: str


@dataclass(frozen=True, slots=True)
class Token:
    """A token and the seconds that it lasts from its arrival on."""

    text: str
    lifetime: float


class _Answer(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None
    expires_in: float | None = None


def parse_token(answer: bytes) -> Token:
    """The token in a token server's answer; raises `InvalidTokenAnswer`."""
    try:
        raw = msgspec.json.decode(answer, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidTokenAnswer(f"not a token: {error}") from None
    text = raw.token or raw.access_token
    if not text or len(text) > _MAX_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidTokenAnswer("an answer without a usable token")
    lifetime = raw.expires_in if raw.expires_in is not None and raw.expires_in > 0 else DEFAULT_LIFETIME
    return Token(text, lifetime)


@dataclass(slots=True)
class _Held:
    """A token, until when it is given out, and whether the registry has taken it."""

    text: str
    until: float
    taken: bool = False


_Key = tuple[str, TokenScope]


class TokenCache:
    """One upstream's tokens; each is fetched once however many requests wait for it."""

    def __init__(self, fetch: Callable[[Identity, TokenScope], Awaitable[Token]], clock: Callable[[], float]) -> None:
        """`fetch` asks the token server; `clock` gives seconds that only grow."""
        self._fetch = fetch
        self._clock = clock
        self._tokens: Recent[_Key, _Held] = Recent(_MAX_TOKENS)
        self._flights: SingleFlight[_Key, str] = SingleFlight()

    async def get(self, identity: Identity, scope: TokenScope) -> str:
        """A token of this identity that has not expired; raises what `fetch` raises."""
        key = identity.key, scope
        held = self._tokens.get(key)
        if held is not None and self._clock() < held.until:
            return held.text
        return await self._flights.run(key, lambda: self._renew(identity, scope))

    def taken(self, identity: Identity, scope: TokenScope, text: str) -> None:
        """The registry took this token."""
        held = self._tokens.get((identity.key, scope))
        if held is not None and held.text == text:
            held.taken = True

    def is_worn(self, identity: Identity, scope: TokenScope, text: str) -> bool:
        """Whether the registry took this token before, or another request has found meanwhile that it does not."""
        held = self._tokens.get((identity.key, scope))
        return held is None or held.text != text or held.taken

    def drop(self, identity: Identity, scope: TokenScope, text: str) -> None:
        """The registry did not take this token."""
        key = identity.key, scope
        held = self._tokens.get(key)
        if held is not None and held.text == text:
            del self._tokens[key]

    async def close(self) -> None:
        """Give up what is being fetched."""
        await self._flights.close()

    async def _renew(self, identity: Identity, scope: TokenScope) -> str:
        asked_at = self._clock()
        token = await self._fetch(identity, scope)
        key = identity.key, scope
        self._tokens.put(key, _Held(token.text, asked_at + token.lifetime * _LIFETIME_USED))
        return token.text
