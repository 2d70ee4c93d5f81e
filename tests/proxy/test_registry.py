"""Signing in, redirects, mirrors and limits, against real servers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.abc import ResolveResult
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from yarl import URL

from peer.origin import OriginDenied, OriginNotFound, OriginUnavailable
from proxy.addresses import PublicResolver
from proxy.authorization import Authorizer
from proxy.egress import Egress
from proxy.endpoint import Endpoint, Question, Sessions
from proxy.identity import ANONYMOUS, Identity, basic, client_identity
from proxy.limits import MAX_QUIET_SECONDS, LimitBoard
from proxy.metrics import ProxyMetrics
from proxy.registry import _MIRROR_SECONDS, REST_SECONDS
from proxy.retry import Limited
from proxy.settings import EndpointSettings, ProxySettings, UpstreamSettings
from proxy.tokens import Token, TokenScope
from proxy.upstream import UpstreamClient
from shoal.descriptor import BlobKind, Descriptor
from shoal.digest import Digest
from shoal.reference import Location, Registry, Repository, Tag
from tests.world.certificates import Authority

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


# --- mirrors, and limits ------------------------------------------------------------------------------------------


class World:
    """Upstream clients with a clock that is set by hand; notes what the cluster is told."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self.now = 1000.0
        self.samples = CollectorRegistry()
        self.told: list[tuple[str, float]] = []
        self._stack = stack

    async def client(self, url: str, **options: Any) -> UpstreamClient:
        settings = ProxySettings(upstreams={AT.registry: UpstreamSettings(url=url, **options)})
        metrics = ProxyMetrics(self.samples, [AT.registry])
        board = LimitBoard(metrics, lambda registry, seconds: self.told.append((registry, seconds)))
        client = UpstreamClient(settings, board, sleep=_no_pause, clock=lambda: self.now)
        return await self._stack.enter_async_context(client)

    def sample(self, name: str) -> float | None:
        return self.samples.get_sample_value(name, {"registry": AT.registry})


async def _no_pause(seconds: float) -> None:
    """What would be a pause between tries."""


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        yield World(stack)


class Place:
    """A registry or a mirror that can be told how to answer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = 200
        self.headers: dict[str, str] = {}
        self.login = ""
        """The `Authorization` without which it answers 401."""
        self.site: Site | None = None

    @property
    def seen(self) -> list[web.Request]:
        assert self.site is not None
        return self.site.seen

    @property
    def url(self) -> str:
        assert self.site is not None
        return self.site.url

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.login and request.headers.get("Authorization") != self.login:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        if self.status != 200:
            return web.Response(status=self.status, headers=self.headers)
        headers = {"X-From": self.name, "Docker-Content-Digest": BLOB.digest, **self.headers}
        return web.Response(body=CONTENT if request.path.rpartition("/")[2] != "list" else self.name, headers=headers)


Places = Callable[..., Awaitable[list[Place]]]


@pytest.fixture
async def places(serve: Serve) -> Places:
    async def start(*names: str) -> list[Place]:
        made = [Place(name) for name in names]
        for place in made:
            place.site = await serve(place.handle)
        return made

    return start


def mirror(place: Place, **options: Any) -> EndpointSettings:
    return EndpointSettings(url=place.url, **options)


async def who_lists(client: UpstreamClient, identity: Identity = ANONYMOUS) -> str:
    return (await client.listing(AT, "tags/list", "", identity)).body.decode()


async def test_mirrors_are_asked_in_order_and_before_the_registry(places: Places, world: World) -> None:
    first, second, own = await places("first", "second", "own")
    client = await world.client(own.url, mirrors=[mirror(first), mirror(second)])
    assert await who_lists(client) == "first"
    assert await read(client) == CONTENT
    assert (await client.head(AT, BLOB.digest, BlobKind.BLOB, ANONYMOUS)).size == len(CONTENT)
    assert (len(first.seen), second.seen, own.seen) == (3, [], [])


@pytest.mark.parametrize("status", [401, 403, 404, 405, 410])
async def test_a_mirror_that_lacks_something_is_asked_again_for_other_things(
    places: Places, world: World, status: int
) -> None:
    first, own = await places("first", "own")
    first.status = status
    client = await world.client(own.url, mirrors=[mirror(first)])
    assert await who_lists(client) == "own"
    first.status = 200
    assert await who_lists(client) == "first"


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_mirror_that_fails_rests_for_a_minute(places: Places, world: World, status: int) -> None:
    first, second, own = await places("first", "second", "own")
    first.status = status
    client = await world.client(own.url, mirrors=[mirror(first), mirror(second)])
    assert await who_lists(client) == "second"
    first.status = 200
    world.now += REST_SECONDS - 1
    assert await who_lists(client) == "second"
    assert len(first.seen) == 1
    world.now += 1
    assert await who_lists(client) == "first"
    assert world.told == []


async def test_a_mirror_that_is_not_reached_rests(places: Places, world: World, unused_tcp_port: int) -> None:
    (own,) = await places("own")
    gone = EndpointSettings(url=f"http://127.0.0.1:{unused_tcp_port}")
    client = await world.client(own.url, mirrors=[gone])
    with capture_logs() as logs:
        assert [await who_lists(client) for _ in range(3)] == ["own"] * 3
    assert [entry["event"] for entry in logs] == ["mirror.rests"]


@pytest.mark.parametrize("question", ["list", "head", "read"])
async def test_a_hanging_mirror_costs_a_second_and_a_half_once(
    serve: Serve, places: Places, world: World, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        await gate.wait()
        return web.Response()

    assert _MIRROR_SECONDS == 1.5
    monkeypatch.setattr("proxy.registry._MIRROR_SECONDS", 0.3)
    monkeypatch.setattr("proxy.upstream._HINT_SECONDS", 0.3)
    site, (own,) = await serve(hang), await places("own")
    client = await world.client(own.url, mirrors=[EndpointSettings(url=site.url)])
    for _ in range(3):
        match question:
            case "list":
                await who_lists(client)
            case "head":
                await client.head(AT, Tag("1"), BlobKind.MANIFEST, ANONYMOUS)
            case _:
                await read(client)
    assert (len(site.seen), [request.method for request in own.seen]) == (
        1,
        ["HEAD" if question == "head" else "GET"] * 3,
    )
    gate.set()


@pytest.mark.parametrize("status", [500, 429])
async def test_a_resting_mirror_is_asked_where_the_registry_gives_no_answer(
    places: Places, world: World, status: int
) -> None:
    first, own = await places("first", "own")
    client = await world.client(own.url, mirrors=[mirror(first)], retries=0)
    first.status = 500
    assert await who_lists(client) == "own"
    first.status, own.status = 200, status
    assert await who_lists(client) == "first"


async def test_a_resting_mirror_is_asked_where_the_registry_hangs(
    serve: Serve, places: Places, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    (first,) = await places("first")

    async def own(request: web.Request) -> web.StreamResponse:
        if request.method == "HEAD":
            await gate.wait()
        return web.Response(status=404)

    monkeypatch.setattr("proxy.upstream._HINT_SECONDS", 0.1)
    client = await world.client((await serve(own)).url, mirrors=[mirror(first)])
    first.status = 500
    with pytest.raises(OriginNotFound):
        await who_lists(client)
    first.status = 200
    assert (await client.head(AT, BLOB.digest, BlobKind.BLOB, ANONYMOUS)).size == len(CONTENT)
    gate.set()


async def test_mirrors_are_not_asked_as_a_client(places: Places, world: World) -> None:
    alice = client_identity([BASIC])
    assert alice is not None
    first, own = await places("first", "own")
    own.login = BASIC
    client = await world.client(own.url, mirrors=[mirror(first)])
    assert await who_lists(client, alice) == "own"
    client.lend(AT, alice)
    assert await read(client) == CONTENT
    assert first.seen == []


async def test_a_mirror_is_signed_in_to_by_its_own_credentials(places: Places, world: World) -> None:
    first, own = await places("first", "own")
    first.login = basic("mirror", "m")
    client = await world.client(
        own.url,
        username="node",
        password="n",
        share_credentials=True,
        mirrors=[mirror(first, username="mirror", password="m")],
    )
    assert await who_lists(client, await client.public(AT.registry)) == "first"
    assert {request.headers.get("Authorization") for request in first.seen} == {None, basic("mirror", "m")}
    assert own.seen == []


async def test_a_mirror_is_shown_no_login_but_its_own(places: Places, world: World, tmp_path: Path) -> None:
    first, own = await places("first", "own")
    first.login, own.login = basic("mirror", "m"), basic("node", "n")
    file = tmp_path / "config.json"
    logins = {first.url.removeprefix("http://"): basic("mirror", "m"), AT.registry: basic("node", "n")}
    auths = {name: {"auth": login.removeprefix("Basic ")} for name, login in logins.items()}
    file.write_text(json.dumps({"auths": auths}))
    keys = {"docker_config": str(file)}
    client = await world.client(own.url, **keys, share_credentials=True, mirrors=[mirror(first, **keys)])
    assert await who_lists(client, await client.public(AT.registry)) == "first"
    first.status = 404
    assert await who_lists(client, await client.public(AT.registry)) == "own"
    assert {request.headers.get("Authorization") for request in first.seen} == {None, basic("mirror", "m")}
    assert {request.headers.get("Authorization") for request in own.seen} == {None, basic("node", "n")}


async def test_a_mirror_that_needs_no_login_is_asked_though_a_file_of_logins_is_named(
    places: Places, world: World, tmp_path: Path
) -> None:
    first, own = await places("first", "own")
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": {AT.registry: {"auth": basic("node", "n").removeprefix("Basic ")}}}))
    assert await who_lists(await world.client(own.url, mirrors=[mirror(first, docker_config=str(file))])) == "first"


async def test_what_a_mirror_gives_this_node_is_not_thereby_everybodys(places: Places, world: World) -> None:
    first, own = await places("first", "own")
    first.login, own.login = basic("mirror", "m"), BASIC
    client = await world.client(own.url, mirrors=[mirror(first, username="mirror", password="m")])
    with pytest.raises(OriginDenied) as caught:
        await client.head(AT, BLOB.digest, BlobKind.BLOB, await client.public(AT.registry))
    assert caught.value.challenges == ('Basic realm="x"',)
    with pytest.raises(OriginDenied):
        await who_lists(client)
    assert first.seen == []
    assert await read(client) == CONTENT  # who may have it is known by then
    assert len(first.seen) == 2


async def test_limits_and_a_429_are_metrics_and_the_clusters_business(places: Places, world: World) -> None:
    (own,) = await places("own")
    own.headers = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "1;w=21600"}
    client = await world.client(own.url)
    await who_lists(client)
    assert world.sample("shoal_upstream_rate_limit_requests") == 100
    own.status, own.headers = 429, {"Retry-After": "7", "RateLimit-Remaining": "0;w=21600"}
    with pytest.raises(Limited, match="429"):
        await who_lists(client)
    assert world.sample("shoal_upstream_rate_limit_remaining_requests") == 0
    assert world.sample("shoal_upstream_limited_total") == 1
    assert world.told == [(AT.registry, 7.0)]
    own.status = 200
    with pytest.raises(Limited, match="for 7 s more"):
        await who_lists(client)
    assert len(own.seen) == 2
    world.now += 7
    assert await who_lists(client) == "own"


async def test_the_clusters_word_on_a_limit_is_bounded(places: Places, world: World) -> None:
    (own,) = await places("own")
    client = await world.client(own.url)
    client.quieten(AT.registry, float("inf"))
    with pytest.raises(Limited):
        await who_lists(client)
    assert (own.seen, world.told) == ([], [])  # and it is not told on
    world.now += MAX_QUIET_SECONDS
    assert await who_lists(client) == "own"


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        (None, 30.0),
        ("0", 1.0),
        ("nonsense", 30.0),
        ("999999999", 3600.0),
        (lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True), 90.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1.0),
        (f"Wed, 21 Oct 2015 07:28:00 +{'9' * 30}", 30.0),
    ],
)
async def test_forms_of_retry_after(
    places: Places, world: World, after: str | Callable[[], str] | None, seconds: float
) -> None:
    (own,) = await places("own")
    own.status = 429
    text = after() if callable(after) else after
    own.headers = {} if text is None else {"Retry-After": text}
    client = await world.client(own.url)
    with pytest.raises(Limited):
        await who_lists(client)
    assert [told for _, told in world.told] == [pytest.approx(seconds, abs=2)]


async def test_a_stores_429_is_not_the_registrys(serve: Serve, places: Places, world: World) -> None:
    (store,) = await places("store")
    store.status = 429

    async def send_on(request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": store.url})

    client = await world.client((await serve(send_on)).url)
    for _ in range(2):
        with pytest.raises(Limited):
            await read(client)
    assert (len(store.seen), world.told) == (2, [])


async def test_an_errors_body_that_does_not_come_is_not_waited_for(
    serve: Serve, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=404)
        await response.prepare(request)
        await response.write(b'{"errors":')
        await gate.wait()
        return response

    monkeypatch.setattr("proxy.registry._ERROR_SECONDS", 0.05)
    client = await world.client((await serve(half)).url)
    async with asyncio.timeout(2):
        with pytest.raises(OriginNotFound) as caught:
            await read(client)
    assert caught.value.code == ""
    gate.set()


# --- as whom the engine fetches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [403, 404])
async def test_a_repository_that_is_hidden_from_this_node_is_fetched_as_a_client(
    serve: Serve, world: World, hidden: int
) -> None:
    alice = client_identity([basic("alice", "a")])
    assert alice is not None

    async def guarded(request: web.Request) -> web.StreamResponse:
        sent = request.headers.get("Authorization")
        if sent is None:
            return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})
        return web.Response(body=CONTENT) if sent == alice.authorization else web.Response(status=hidden)

    site = await serve(guarded)
    client = await world.client(site.url, username="node", password="n")
    client.lend(AT, alice)
    assert await read(client) == CONTENT
    site.seen.clear()
    assert await read(client) == CONTENT
    assert [request.headers.get("Authorization") for request in site.seen] == [alice.authorization]


async def test_what_is_missing_for_who_was_served_before_is_missing(places: Places, world: World) -> None:
    (own,) = await places("own")
    client = await world.client(own.url, username="node", password="n")
    await read(client)
    own.status = 404
    own.seen.clear()
    with pytest.raises(OriginNotFound):
        await read(client)
    assert len(own.seen) == 1


# --- any registry of the open Internet -------------------------------------------------------------------------------


@pytest.fixture
async def anywhere() -> AsyncIterator[UpstreamClient]:
    settings = ProxySettings(any_upstream=True)
    board = LimitBoard(ProxyMetrics(CollectorRegistry()), None)
    async with UpstreamClient(settings, board, sleep=_no_pause) as client:
        yield client


@pytest.mark.parametrize(
    "name",
    [
        "localhost",
        "registry",
        "127.0.0.1",
        "169.254.169.254",
        "8.8.8.8",
        "[::1]",
        "[2001:4860:4860::8888]",
        "registry.local",
        "registry.internal",
        "a.b.svc.cluster.local",
        "1.0.168.192.in-addr.arpa",
        "registry.example.com:5000",
        "2130706433",
        "127.1",
        "0x7f.1",
        "a..com",
    ],
)
async def test_names_that_are_none_of_the_open_internet_are_not_stood_for(anywhere: UpstreamClient, name: str) -> None:
    place = Location(Registry(name), Repository("team/app"))
    with pytest.raises(OriginDenied, match="configured"):
        await anywhere.head(place, BLOB.digest, BlobKind.BLOB, ANONYMOUS)
    with pytest.raises(OriginDenied, match="configured"):
        await anywhere.public(place.registry)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.0.1", "::1", "fe80::1", "::ffff:127.0.0.1", "fd00::1"],
)
async def test_public_names_of_private_addresses_are_refused(
    anywhere: UpstreamClient, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def found(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    place = Location(Registry("rebound.example.com"), Repository("team/app"))
    with pytest.raises(OriginDenied, match=r"rebound\.example\.com has no public address"):
        await anywhere.listing(place, "tags/list", "", ANONYMOUS)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_public_registries_are_reached_by_a_proxy_that_is_inside(host: str) -> None:
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        writer.write(b"HTTP/1.1 403 Not For You\r\n\r\n")
        writer.close()

    board = LimitBoard(ProxyMetrics(CollectorRegistry()), None)
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        proxy = f"http://{host}:{server.sockets[0].getsockname()[1]}"
        settings = ProxySettings(any_upstream=True, https_proxy=proxy)
        async with UpstreamClient(settings, board, sleep=_no_pause) as client:
            with pytest.raises(OriginUnavailable, match="the HTTP proxy refuses: 403"):
                await client.check(Registry("registry.example.com"), ANONYMOUS)
    assert asked == [b"CONNECT registry.example.com:443 HTTP/1.1"]


async def test_the_proxy_itself_is_no_public_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    def inside(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", inside)
    board = LimitBoard(ProxyMetrics(CollectorRegistry()), None)
    settings = ProxySettings(any_upstream=True, https_proxy="http://proxy.example.com:3128", no_proxy=["example.com"])
    async with UpstreamClient(settings, board, sleep=_no_pause) as client:
        with pytest.raises(OriginDenied, match="no public address"):
            await client.check(Registry("proxy.example.com"), ANONYMOUS)


class _OneHost(PublicResolver):
    """Takes `registry.test`, which is at this machine, for a public host."""

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        if host != "registry.test":
            return await super().resolve(host, port, family)
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)]


@pytest.mark.parametrize("way", ["redirect", "realm"])
@pytest.mark.parametrize(
    "target",
    [
        "https://127.0.0.1:{port}/",
        "https://127.1:{port}/",
        "https://2130706433:{port}/",
        "https://0x7f000001:{port}/",
        "https://localhost:{port}/",
        "https://[::1]:{port}/",
        "https://[::ffff:127.0.0.1]:{port}/",
        "https://0.0.0.0:{port}/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "http://registry.test:{port}/",
    ],
)
async def test_no_redirect_of_a_public_registry_leads_inside(tmp_path: Path, way: str, target: str) -> None:
    authority = Authority(tmp_path)
    connections: list[bytes] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate = authority.issue("registry.test")
    context.load_cert_chain(certificate.certificate_file, certificate.key_file)

    async def inside(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(await reader.read(1))
        writer.close()

    async def send_there(request: web.BaseRequest) -> web.StreamResponse:
        if way == "redirect":
            return web.Response(status=307, headers={"Location": there})
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="{there}"'})

    async with contextlib.AsyncExitStack() as stack:
        private = await stack.enter_async_context(await asyncio.start_server(inside, "127.0.0.1", 0))
        there = target.replace("{port}", str(private.sockets[0].getsockname()[1]))
        runner = web.ServerRunner(web.Server(send_there, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        listener = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await listener.start()
        sessions = Sessions.open(10, _OneHost())
        stack.push_async_callback(sessions.close)
        settings = EndpointSettings(url=f"https://registry.test:{listener.port}", ca_file=str(authority.file))
        endpoint = Endpoint(AT.registry, settings, Egress(), lambda: sessions, time.monotonic, public_only=True)
        question = Question("GET", "team/app", "tags/list")
        with pytest.raises((OriginDenied, OriginUnavailable)):
            await endpoint.ask(question, ANONYMOUS)
        await endpoint.close()
    assert connections == []
