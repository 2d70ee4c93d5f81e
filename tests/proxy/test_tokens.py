from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.identity import ANONYMOUS, Identity, node_identity
from proxy.tokens import DEFAULT_LIFETIME, InvalidTokenAnswer, Token, TokenCache, TokenScope, parse_token

LONG = b'{"token": "' + b"x" * 40_000 + b'"}'
SCOPE = TokenScope("https://auth.example/token", "registry", "repository:a/b:pull")


class Issuer:
    """Counts what it gave out; its clock is set by hand."""

    def __init__(self, lifetime: float = 100.0) -> None:
        self.now = 0.0
        self.lifetime = lifetime
        self.issued = 0

    async def issue(self, identity: Identity, scope: TokenScope) -> Token:
        await asyncio.sleep(0)
        self.issued += 1
        return Token(f"t{self.issued}", self.lifetime)

    def cache(self) -> TokenCache:
        return TokenCache(self.issue, lambda: self.now)


async def test_a_token_is_used_until_shortly_before_its_end() -> None:
    issuer = Issuer(100)
    cache = issuer.cache()
    assert await cache.get(ANONYMOUS, SCOPE) == "t1"
    issuer.now = 89
    assert await cache.get(ANONYMOUS, SCOPE) == "t1"
    issuer.now = 91
    assert await cache.get(ANONYMOUS, SCOPE) == "t2"


async def test_many_who_ask_at_once_cost_one_token() -> None:
    issuer = Issuer()
    cache = issuer.cache()
    assert set(await asyncio.gather(*(cache.get(ANONYMOUS, SCOPE) for _ in range(20)))) == {"t1"}
    other = TokenScope(SCOPE.realm, SCOPE.service, "repository:c/d:pull")
    assert await cache.get(ANONYMOUS, other) == "t2"


async def test_only_the_token_that_was_refused_is_dropped() -> None:
    issuer = Issuer()
    cache = issuer.cache()
    await cache.get(ANONYMOUS, SCOPE)
    cache.drop(ANONYMOUS, SCOPE, "an older one")
    assert await cache.get(ANONYMOUS, SCOPE) == "t1"
    cache.drop(ANONYMOUS, SCOPE, "t1")
    assert await cache.get(ANONYMOUS, SCOPE) == "t2"


async def test_each_identity_has_its_own_tokens() -> None:
    issuer = Issuer()
    cache = issuer.cache()
    alice, bob = node_identity("alice", "a"), node_identity("bob", "b")
    assert [await cache.get(alice, SCOPE), await cache.get(bob, SCOPE), await cache.get(alice, SCOPE)] == [
        "t1",
        "t2",
        "t1",
    ]
    cache.taken(bob, SCOPE, "t2")
    assert [cache.is_worn(alice, SCOPE, "t1"), cache.is_worn(bob, SCOPE, "t2")] == [False, True]


@pytest.mark.parametrize(
    ("answer", "token"),
    [
        ({"token": "a", "expires_in": 300}, Token("a", 300)),
        ({"access_token": "b"}, Token("b", DEFAULT_LIFETIME)),
        ({"token": "a", "access_token": "b", "expires_in": 0}, Token("a", DEFAULT_LIFETIME)),
        ({"token": None, "access_token": "b", "expires_in": None}, Token("b", DEFAULT_LIFETIME)),
    ],
)
def test_answers(answer: object, token: Token) -> None:
    assert parse_token(json.dumps(answer).encode()) == token


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b'{"token": 3}', b'{"token": "a\\r\\nb"}', b'{"token": "a b"}', LONG]
)
def test_answers_without_a_token(answer: bytes) -> None:
    with pytest.raises(InvalidTokenAnswer):
        parse_token(answer)


@given(st.binary(max_size=200))
def test_any_answer_is_survived(answer: bytes) -> None:
    try:
        assert parse_token(answer).text
    except InvalidTokenAnswer:
        pass
