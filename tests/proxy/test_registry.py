"""Signing in and redirects, against real servers."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from yarl import URL

from peer.origin import OriginDenied, OriginUnavailable
from proxy.authorization import Authorizer
from proxy.identity import ANONYMOUS, Identity
from proxy.tokens import Token, TokenScope
from proxy.upstream import UpstreamClient
from shoal.descriptor import Descriptor
from shoal.digest import Digest
from shoal.reference import Location

if TYPE_CHECKING:
    from tests.proxy.conftest import Handler, Site

    Serve = Callable[[Handler], Awaitable[Site]]
    Connect = Callable[..., Awaitable[tuple[UpstreamClient, list[float]]]]

CONTENT = b"some layer"
BLOB = Descriptor(Digest.of(CONTENT), len(CONTENT))
AT = Location.parse("registry.example:5000", "team/app")
BASIC = "Basic " + base64.b64encode(b"user:pass").decode()


async def read(client: UpstreamClient, location: Location = AT) -> bytes:
    async with client.fetch(location, BLOB) as body:
        return b"".join([chunk async for chunk in body.chunks()])


class TokenRegistry:
    """A registry with a token server beside it; a token is good for `uses` requests."""

    def __init__(self, uses: int = 1000) -> None:
        self.site: Site | None = None
        self.uses = uses
        self.issued: dict[str, int] = {}
        self.asked: list[web.Request] = []
        self.status = 200

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            self.asked.append(request)
            token = f"t{len(self.asked)}"
            self.issued[token] = self.uses
            return web.Response(status=self.status, body=json.dumps({"access_token": token, "expires_in": 300}))
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.issued.get(token, 0) > 0:
            self.issued[token] -= 1
            return web.Response(body=CONTENT)
        assert self.site is not None
        challenge = f'Bearer realm="{self.site.url}/token",service="reg"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async def start(self, serve: Serve) -> str:
        self.site = await serve(self.handle)
        return self.site.url


async def test_basic_credentials_are_sent_when_asked_for(serve: Serve, connect: Connect) -> None:
    async def guarded(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") == BASIC:
            return web.Response(body=CONTENT)
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    site = await serve(guarded)
    client, _ = await connect(site.url, username="user", password="pass")
    assert await read(client) == CONTENT
    assert await read(client) == CONTENT
    assert [request.headers.get("Authorization") for request in site.seen] == [None, BASIC, BASIC]


async def test_wrong_basic_credentials_are_denied(serve: Serve, connect: Connect) -> None:
    async def guarded(request: web.Request) -> web.StreamResponse:
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    site = await serve(guarded)
    client, _ = await connect(site.url, username="user", password="pass")
    with pytest.raises(OriginDenied):
        await read(client)
    assert [request.headers.get("Authorization") for request in site.seen] == [None, BASIC, None]  # nobody may read it


async def test_the_token_dance_is_danced_once(serve: Serve, connect: Connect) -> None:
    registry = TokenRegistry()
    client, _ = await connect(await registry.start(serve))
    assert await read(client) == CONTENT
    assert set(await asyncio.gather(*(read(client) for _ in range(5)))) == {CONTENT}
    (asked,) = registry.asked
    assert dict(asked.query) == {"service": "reg", "scope": "repository:team/app:pull"}
    assert "Authorization" not in asked.headers


async def test_another_repository_needs_no_second_challenge(serve: Serve, connect: Connect) -> None:
    registry = TokenRegistry()
    client, _ = await connect(await registry.start(serve))
    await read(client)
    assert registry.site is not None
    registry.site.seen.clear()
    await read(client, Location.parse("registry.example:5000", "team/other"))
    assert [request.path.startswith("/token") for request in registry.site.seen] == [True, False]


async def test_credentials_go_to_the_token_server_alone(serve: Serve, connect: Connect) -> None:
    registry = TokenRegistry()
    client, _ = await connect(await registry.start(serve), username="user", password="pass")
    await read(client)
    assert registry.site is not None
    sent = [request.headers.get("Authorization") for request in registry.site.seen]
    assert sent == [None, BASIC, "Bearer t1"]


async def test_an_expired_token_is_renewed(serve: Serve, connect: Connect) -> None:
    registry = TokenRegistry(uses=1)
    client, _ = await connect(await registry.start(serve))
    assert await read(client) == CONTENT
    assert await read(client) == CONTENT
    assert len(registry.asked) == 2


async def test_a_token_that_is_never_accepted_is_a_denial(serve: Serve, connect: Connect) -> None:
    registry = TokenRegistry(uses=0)
    client, _ = await connect(await registry.start(serve))
    with pytest.raises(OriginDenied):
        await read(client)
    assert len(registry.asked) == 2


async def test_a_refusing_token_server_is_a_denial(serve: Serve, connect: Connect) -> None:
    registry = TokenRegistry()
    registry.status = 401
    client, _ = await connect(await registry.start(serve))
    with pytest.raises(OriginDenied):
        await read(client)


async def test_an_ailing_token_server_is_tried_again(serve: Serve, connect: Connect) -> None:
    registry = TokenRegistry()
    registry.status = 503
    client, pauses = await connect(await registry.start(serve), retries=2)
    with pytest.raises(OriginUnavailable):
        await client.listing(AT, "tags/list", "", ANONYMOUS)
    assert len(pauses) == 2


@pytest.mark.parametrize("realm", ["http://auth.example/token", "ftp://auth.example", "token", "https://[x"])
def test_a_token_server_that_must_not_be_trusted(realm: str) -> None:
    async def fetch(url: URL, scope: TokenScope, identity: Identity) -> Token:
        raise AssertionError

    authorizer = Authorizer(URL("https://registry.example"), fetch, lambda: 0.0)
    with pytest.raises(OriginDenied, match="token server"):
        authorizer.learn([f'Bearer realm="{realm}"'], "a/b", ANONYMOUS, None)


async def test_a_redirect_to_another_host_carries_no_authorization(serve: Serve, connect: Connect) -> None:
    async def store(request: web.Request) -> web.StreamResponse:
        return web.Response(body=CONTENT)

    cdn = await serve(store)

    async def guarded(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != BASIC:
            return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})
        return web.Response(status=307, headers={"Location": f"{cdn.url}/data?sig=a%2Fb%20c"})

    registry = await serve(guarded)
    client, _ = await connect(registry.url, username="user", password="pass")
    assert await read(client) == CONTENT
    (request,) = cdn.seen
    assert "Authorization" not in request.headers
    assert request.raw_path == "/data?sig=a%2Fb%20c"


async def test_a_redirect_within_the_registry_keeps_authorization(serve: Serve, connect: Connect) -> None:
    async def guarded(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != BASIC:
            return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})
        if request.path == "/moved":
            return web.Response(body=CONTENT)
        return web.Response(status=302, headers={"Location": "/moved"})

    client, _ = await connect((await serve(guarded)).url, username="user", password="pass")
    assert await read(client) == CONTENT


async def test_credentials_are_not_given_to_a_challenge_behind_a_redirect(serve: Serve, connect: Connect) -> None:
    async def greedy(request: web.Request) -> web.StreamResponse:
        return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})

    other = await serve(greedy)

    async def send_away(request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": other.url})

    client, _ = await connect((await serve(send_away)).url, username="user", password="pass")
    with pytest.raises(OriginDenied):
        await read(client)
    assert [request.headers.get("Authorization") for request in other.seen] == [None, None]


@pytest.mark.parametrize("target", ["/again", "file:///etc/passwd", "http://", "//[x"])
async def test_redirects_that_lead_nowhere(serve: Serve, connect: Connect, target: str) -> None:
    async def circle(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": target})

    site = await serve(circle)
    client, _ = await connect(site.url)
    with pytest.raises(OriginUnavailable, match="redirects"):
        await read(client)
    assert len(site.seen) <= 6
