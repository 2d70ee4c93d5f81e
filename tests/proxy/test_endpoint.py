"""One address of a registry, against real servers: challenges, tokens, TLS, proxies and redirects."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiohttp import BasicAuth, web
from prometheus_client import CollectorRegistry

from peer.origin import OriginDenied, OriginError, OriginUnavailable
from proxy.credentials import AGAIN_SECONDS
from proxy.endpoint import TOKEN_SECONDS, tls_contexts
from proxy.identity import ANONYMOUS, Identity, basic, client_identity, node_token_identity
from proxy.limits import LimitBoard
from proxy.metrics import ProxyMetrics
from proxy.retry import ANSWER_SECONDS, Unreachable
from proxy.settings import CredentialsUnreadable, EndpointSettings, ProxySettings, UpstreamSettings
from proxy.upstream import UpstreamClient
from shoal.descriptor import BlobKind, Descriptor
from shoal.digest import Digest
from shoal.reference import Location
from tests.world.certificates import Authority, Certificate

if TYPE_CHECKING:
    from tests.proxy.conftest import Handler, Site

    Serve = Callable[[Handler], Awaitable[Site]]

REGISTRY = "registry.example:5000"
CONTENT = b"some layer"
BLOB = Descriptor(Digest.of(CONTENT), len(CONTENT))
AT = Location.parse(REGISTRY, "team/app")
OTHER = Location.parse(REGISTRY, "team/other")


def client_of(authorization: str) -> Identity:
    identity = client_identity([authorization])
    assert identity is not None
    return identity


ALICE, BOB = client_of(basic("alice", "a")), client_of(basic("bob", "b"))


class World:
    """Clients of upstreams, with a clock that stands still; they are closed in the end."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self.now = 0.0
        self._stack = stack

    async def client(self, url: str, *, general: ProxySettings | None = None, **options: Any) -> UpstreamClient:
        """`general`: proxies for all upstreams."""
        upstream = UpstreamSettings(url=url, **options)
        settings = msgspec.structs.replace(general or ProxySettings(), upstreams={REGISTRY: upstream})
        board = LimitBoard(ProxyMetrics(CollectorRegistry()), None)
        client = UpstreamClient(settings, board, sleep=_no_pause, clock=lambda: self.now)
        return await self._stack.enter_async_context(client)


async def _no_pause(seconds: float) -> None:
    """What would be a pause between tries."""


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        yield World(stack)


async def tags(client: UpstreamClient, identity: Identity = ANONYMOUS, location: Location = AT) -> bytes:
    return (await client.listing(location, "tags/list", "", identity)).body


async def read(client: UpstreamClient, location: Location = AT) -> bytes:
    async with client.fetch(location, BLOB) as body:
        return b"".join([chunk async for chunk in body.chunks()])


async def give(request: web.Request) -> web.StreamResponse:
    return web.Response(body=CONTENT)


# --- challenges and tokens ----------------------------------------------------------------------------------------


class TokenRegistry:
    """A registry with a token server on the same port, for users with passwords. Tokens name who got them."""

    def __init__(self) -> None:
        self.users = {"alice": "a", "bob": "b", "node": "n"}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        """Method of each request for a token, who asked, and its parameters."""
        self.bad: set[str] = set()
        """Tokens that are not taken."""
        self.bad_answer: Callable[[], web.Response] = self.challenge
        self.nobody = True
        """Whether tokens are given to nobody."""
        self.lifetime = 300
        self.site: Site | None = None
        self.realm = ""
        self.sent: list[str | None] = []
        """`Authorization` of each request that is not for a token."""
        self.answer: Handler = give

    async def start(self, serve: Serve) -> str:
        self.site = await serve(self.handle)
        self.realm = f"{self.site.url}/token"
        return self.site.url

    def challenge(self) -> web.Response:
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="{self.realm}",service="reg"'})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            return await self._token(request)
        sent = request.headers.get("Authorization")
        self.sent.append(sent)
        token = (sent or "").removeprefix("Bearer ")
        if not token.startswith("token-"):
            return self.challenge()
        return self.bad_answer() if token in self.bad else await self.answer(request)

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        who = "nobody"
        if "refresh_token" in form:
            who = f"owner of {form['refresh_token']}"
        elif "Authorization" in request.headers:
            login = BasicAuth.decode(request.headers["Authorization"])
            if self.users.get(login.login) != login.password:
                return web.Response(status=401)
            who = login.login
        elif not self.nobody:
            return web.Response(status=401)
        self.asked.append((request.method, who, form or dict(request.query)))
        token = f"token-{len(self.asked)}"
        return web.Response(body=json.dumps({"token": token, "expires_in": self.lifetime}))


CHALLENGES = [
    ['Bearer realm="{realm}"'],
    ['bearer REALM="{realm}" , service = "reg"'],
    ['Basic realm="x", Bearer realm="{realm}"'],
    ['Negotiate, Bearer realm="{realm}", Basic realm=y'],
    ["Negotiate abcd==", 'Bearer realm="{realm}"'],
    ['Custom a="b, Bearer realm=\\"no\\"", Bearer realm="{realm}"'],
]


@pytest.mark.parametrize("challenges", CHALLENGES)
async def test_a_bearer_challenge_among_others_is_answered(serve: Serve, world: World, challenges: list[str]) -> None:
    registry = TokenRegistry()
    url = await registry.start(serve)
    headers = [("WWW-Authenticate", each.replace("{realm}", registry.realm)) for each in challenges]
    registry.challenge = lambda: web.Response(status=401, headers=headers)  # type: ignore[method-assign]
    client = await world.client(url)
    assert await tags(client, ALICE) == CONTENT
    assert registry.sent == [None, "Bearer token-1"]
    assert [who for _, who, _ in registry.asked] == ["alice"]


async def test_a_token_is_asked_for_with_the_services_name_and_each_scope(serve: Serve, world: World) -> None:
    registry = TokenRegistry()
    url = await registry.start(serve)
    registry.realm += "?tenant=7"
    challenge = 'Bearer realm="{}",service="a, \\"b\\"",scope="repository:team/app:pull other:x:y"'
    headers = {"WWW-Authenticate": challenge.format(registry.realm)}
    registry.challenge = lambda: web.Response(status=401, headers=headers)  # type: ignore[method-assign]
    await tags(await world.client(url))
    assert registry.site is not None
    (request,) = [request for request in registry.site.seen if request.path == "/token"]
    assert request.query.getall("scope") == ["repository:team/app:pull", "other:x:y"]
    assert (request.query["service"], request.query["tenant"]) == ('a, "b"', "7")


async def test_a_token_is_used_until_shortly_before_its_end(serve: Serve, world: World) -> None:
    registry = TokenRegistry()
    client = await world.client(await registry.start(serve))
    for now, token in ((0, 1), (269, 1), (271, 2)):
        world.now = now
        await tags(client)
        assert registry.sent[-1] == f"Bearer token-{token}"


EXPIRED: dict[str, Callable[[], web.Response]] = {
    "400": lambda: web.Response(status=400),
    "403": lambda: web.Response(status=403),
}


@pytest.mark.parametrize("status", ["401", *EXPIRED])
async def test_a_token_that_ends_in_mid_pull_is_renewed(serve: Serve, world: World, status: str) -> None:
    registry = TokenRegistry()
    registry.bad_answer = EXPIRED.get(status, registry.challenge)
    client = await world.client(await registry.start(serve))
    await tags(client)
    registry.bad.add("token-1")
    assert await read(client) == CONTENT
    assert registry.sent == [None, "Bearer token-1", "Bearer token-1", "Bearer token-2"]


@pytest.mark.parametrize("status", EXPIRED)
async def test_a_token_that_ends_for_many_requests_at_once_is_renewed_once(
    serve: Serve, world: World, status: str
) -> None:
    registry, together = TokenRegistry(), asyncio.Event()

    async def wait(request: web.Request) -> web.StreamResponse:
        if request.headers["Authorization"] == "Bearer token-1" and registry.bad:
            if registry.sent.count("Bearer token-1") == 1 + 5:
                together.set()
            await together.wait()
            return EXPIRED[status]()
        return web.Response(body=CONTENT)

    client = await world.client(await registry.start(serve))
    await tags(client)
    registry.answer = wait
    registry.bad.add("expired")
    assert await asyncio.gather(*(read(client) for _ in range(5))) == [CONTENT] * 5
    assert len(registry.asked) == 2


@pytest.mark.parametrize("status", EXPIRED)
async def test_a_new_token_that_is_refused_too_is_no_loop(serve: Serve, world: World, status: str) -> None:
    registry = TokenRegistry()
    registry.bad_answer = EXPIRED[status]
    client = await world.client(await registry.start(serve))
    await tags(client)
    registry.bad |= {f"token-{number}" for number in range(1, 10)}
    for tries in (2, 1):  # the second one was never taken
        registry.sent.clear()
        with pytest.raises(OriginError, match=f"answered {status}"):
            await tags(client)
        assert len(registry.sent) == tries
    assert len(registry.asked) == 2


async def test_who_is_redirected_has_been_let_in(serve: Serve, world: World) -> None:
    store = await serve(give)
    registry = TokenRegistry()
    registry.bad_answer = EXPIRED["400"]

    async def send_on(request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": store.url})

    registry.answer = send_on
    client = await world.client(await registry.start(serve))
    assert await read(client) == CONTENT
    registry.bad.add("token-1")
    assert await read(client) == CONTENT
    assert [request.headers.get("Authorization") for request in store.seen] == [None, None]


async def test_an_identity_token_is_exchanged_by_post(serve: Serve, world: World) -> None:
    registry = TokenRegistry()
    client = await world.client(await registry.start(serve))
    assert await tags(client, node_token_identity("long-lived")) == CONTENT
    ((method, who, form),) = registry.asked
    assert (method, who) == ("POST", "owner of long-lived")
    assert (form["grant_type"], form["service"], form["scope"]) == ("refresh_token", "reg", "repository:team/app:pull")
    assert registry.site is not None
    assert all("long-lived" not in str(request.url) for request in registry.site.seen)
    assert registry.sent == [None, "Bearer token-1"]


async def test_each_identity_has_its_own_tokens(serve: Serve, world: World) -> None:
    registry = TokenRegistry()
    client = await world.client(await registry.start(serve))
    for identity in (ALICE, BOB, ANONYMOUS, ALICE, BOB, ANONYMOUS):
        await tags(client, identity)
    assert [who for _, who, _ in registry.asked] == ["alice", "bob", "nobody"]
    assert registry.sent[1:] == [f"Bearer token-{number}" for number in (1, 2, 3, 1, 2, 3)]


async def test_a_clients_own_token_is_sent_as_it_is_and_to_the_registry_alone(serve: Serve, world: World) -> None:
    registry = TokenRegistry()
    client = await world.client(await registry.start(serve))
    assert await tags(client, client_of("Bearer token-mine")) == CONTENT
    with pytest.raises(OriginDenied) as caught:
        await tags(client, client_of("Bearer expired"))
    assert caught.value.challenges == (f'Bearer realm="{registry.realm}",service="reg"',)
    assert (registry.asked, registry.sent) == ([], ["Bearer token-mine", "Bearer expired"])


@pytest.mark.parametrize("identity", [ANONYMOUS, client_of(basic("alice", "wrong"))], ids=["nobody", "wrong"])
async def test_a_refusing_token_server_leaves_the_registrys_challenge(
    serve: Serve, world: World, identity: Identity
) -> None:
    registry = TokenRegistry()
    registry.nobody = False
    client = await world.client(await registry.start(serve))
    await tags(client, ALICE)
    for location in (AT, OTHER):  # of the other one nothing has been heard before
        with pytest.raises(OriginDenied, match="token server") as caught:
            await tags(client, identity, location)
        assert caught.value.challenges == (f'Bearer realm="{registry.realm}",service="reg"',)
    assert registry.bad == set()


async def test_a_public_repository_needs_no_token_though_others_do(serve: Serve, world: World) -> None:
    registry = TokenRegistry()
    registry.nobody = False

    async def some_public(request: web.Request) -> web.StreamResponse:
        return await (give(request) if "team/other" in request.path else registry.handle(request))

    registry.site = await serve(some_public)
    registry.realm = f"{registry.site.url}/token"
    client = await world.client(registry.site.url)
    await tags(client, ALICE)
    assert await tags(client, ANONYMOUS, OTHER) == CONTENT


async def test_a_login_that_the_token_server_refuses_is_read_again(serve: Serve, world: World, tmp_path: Path) -> None:
    registry = TokenRegistry()
    registry.nobody = False
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": {REGISTRY: {"username": "node", "password": "old"}}}))
    client = await world.client(await registry.start(serve), docker_config=str(file), share_credentials=True)
    with pytest.raises(OriginDenied):
        await tags(client, await client.public(AT.registry))
    file.write_text(json.dumps({"auths": {REGISTRY: {"username": "node", "password": "n"}}}))
    world.now = AGAIN_SECONDS
    assert await tags(client, await client.public(AT.registry)) == CONTENT


async def test_a_challenge_that_is_no_utf_8_can_be_sent_on(world: World) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="Gesch\xfctzt"\r\nContent-Length: 0\r\n\r\n')
        writer.close()

    async with listening(answer) as port:
        with pytest.raises(OriginDenied) as caught:
            await tags(await world.client(f"http://127.0.0.1:{port}"))
    assert caught.value.challenges == ('Basic realm="Gesch?tzt"',)


async def test_a_challenge_is_passed_on_whole_or_not_at_all(serve: Serve, world: World) -> None:
    long, short = f'Basic realm="{"x" * 5000}"', 'Basic realm="y"'

    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=401, headers=[("WWW-Authenticate", each) for each in (long, short)])

    client = await world.client((await serve(refuse)).url)
    with pytest.raises(OriginDenied) as caught:
        await tags(client)
    assert caught.value.challenges == (short,)


# --- token servers out of order -----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def listening(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], host: str = "127.0.0.1"
) -> AsyncIterator[int]:
    """The port of a server that answers each connection so."""
    server = await asyncio.start_server(answer, host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


BROKEN: dict[str, tuple[Callable[[], web.Response], str]] = {
    "500": (lambda: web.Response(status=500), "answered 500"),
    "404": (lambda: web.Response(status=404), "answered 404"),
    "429": (lambda: web.Response(status=429), "answered 429"),
    "redirect": (lambda: web.Response(status=307, headers={"Location": "/elsewhere"}), "answered 307"),
    "nonsense": (lambda: web.Response(body=b"<html>"), "not a token"),
    "none": (lambda: web.Response(body=b"{}"), "without a usable token"),
    "a header": (lambda: web.Response(body=b'{"token":"a\\r\\nX: y"}'), "without a usable token"),
    "huge": (lambda: web.Response(body=b'{"token":"' + b"a" * (2 << 20)), "more than"),
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_an_ailing_token_server_is_named_with_the_cause(serve: Serve, world: World, kind: str) -> None:
    answer, told = BROKEN[kind]

    async def token_server(request: web.Request) -> web.StreamResponse:
        return answer()

    registry = TokenRegistry()
    url = await registry.start(serve)
    registry.realm = (await serve(token_server)).url.replace("127.0.0.1", "localhost") + "/token"
    with pytest.raises(OriginUnavailable, match=told) as caught:
        await tags(await world.client(url))
    assert "the token server localhost" in str(caught.value) or kind == "huge"


async def test_a_token_server_that_is_down_is_named(serve: Serve, world: World, unused_tcp_port: int) -> None:
    registry = TokenRegistry()
    url = await registry.start(serve)
    registry.realm = f"http://localhost:{unused_tcp_port}/token"
    with pytest.raises(
        Unreachable, match=rf"the token server localhost: cannot connect to localhost:{unused_tcp_port}"
    ):
        await tags(await world.client(url))


async def test_a_token_server_without_a_name_is_told(serve: Serve, world: World) -> None:
    registry = TokenRegistry()
    url = await registry.start(serve)
    registry.realm = "http://auth.invalid/token"
    with pytest.raises(Unreachable, match=r"the token server auth\.invalid: the name auth\.invalid does not resolve"):
        await tags(await world.client(url))


@pytest.mark.parametrize("question", ["tags", "head", "check"])
async def test_a_token_server_that_hangs_is_named_before_the_client_leaves(
    serve: Serve, world: World, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        await gate.wait()
        return web.Response()

    registry = TokenRegistry()
    url = await registry.start(serve)
    registry.realm = (await serve(hang)).url + "/token"
    monkeypatch.setattr("proxy.endpoint.TOKEN_SECONDS", 0.5)
    monkeypatch.setattr("proxy.retry.ANSWER_SECONDS", 1.0)
    monkeypatch.setattr("proxy.upstream._HINT_SECONDS", 0.3)
    client = await world.client(url, sign_in=False)
    with pytest.raises(Unreachable, match=r"the token server 127\.0\.0\.1 gave no answer within 0\.5 s"):
        match question:
            case "tags":
                await tags(client)
            case "head":
                await client.head(AT, BLOB.digest, BlobKind.BLOB, ANONYMOUS)
            case _:
                await client.check(AT.registry, ANONYMOUS)
    assert TOKEN_SECONDS < ANSWER_SECONDS < 5
    gate.set()


# --- TLS ----------------------------------------------------------------------------------------------------------


@dataclass
class SecureSite:
    """A server with TLS; `shown` are the certificates (DER) that its clients showed."""

    url: str
    seen: list[web.BaseRequest] = field(default_factory=list)
    shown: list[bytes | None] = field(default_factory=list)


ServeTls = Callable[..., Awaitable[SecureSite]]


@pytest.fixture
async def serve_tls() -> AsyncIterator[ServeTls]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(handler: Handler, certificate: Certificate, clients: Path | None = None) -> SecureSite:
            """`clients`: whose certificates clients have to show; another server asks for none."""
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate.certificate_file, certificate.key_file)
            if clients is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(clients)
            site = SecureSite("")

            async def seen(request: web.BaseRequest) -> web.StreamResponse:
                site.seen.append(request)
                assert request.transport is not None
                site.shown.append(request.transport.get_extra_info("ssl_object").getpeercert(binary_form=True))
                return await handler(request)  # type: ignore[arg-type]

            runner = web.ServerRunner(web.Server(seen, access_log=None), shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            listener = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
            await listener.start()
            site.url = f"https://127.0.0.1:{listener.port}"
            return site

        yield start


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    return authority.issue("127.0.0.1")


async def test_a_private_authority_is_trusted_where_the_upstream_names_it(
    serve_tls: ServeTls, world: World, authority: Authority, certificate: Certificate
) -> None:
    site = await serve_tls(give, certificate)
    assert await tags(await world.client(site.url, ca_file=str(authority.file))) == CONTENT


async def test_an_untrusted_certificate_leads_to_ca_file(
    serve_tls: ServeTls, world: World, certificate: Certificate, tmp_path: Path
) -> None:
    site = await serve_tls(give, certificate)
    other = Authority(tmp_path)
    unfit: list[dict[str, Any]] = [{}, {"ca_file": str(other.file)}]
    for options in unfit:
        with pytest.raises(OriginUnavailable, match=r"127\.0\.0\.1: its certificate is not trusted: .*`ca_file`"):
            await tags(await world.client(site.url, **options))
    assert site.seen == []


async def test_a_certificate_for_another_name_is_told(serve_tls: ServeTls, world: World, authority: Authority) -> None:
    site = await serve_tls(give, authority.issue("elsewhere.test"))
    with pytest.raises(OriginUnavailable, match=r"127\.0\.0\.1.*not valid for '127\.0\.0\.1'"):
        await tags(await world.client(site.url, ca_file=str(authority.file)))


async def test_a_server_without_tls_is_told(serve: Serve, world: World) -> None:
    site = await serve(give)
    with pytest.raises(OriginError, match=r"127\.0\.0\.1: "):
        await tags(await world.client(site.url.replace("http:", "https:")))


async def test_the_nodes_certificate_is_shown_to_its_registry_and_to_nobody_behind_a_redirect(
    serve_tls: ServeTls, world: World, authority: Authority, certificate: Certificate
) -> None:
    own = authority.issue("node")
    files: dict[str, Any] = {
        "ca_file": str(authority.file),
        "cert_file": str(own.certificate_file),
        "key_file": str(own.key_file),
    }
    store = await serve_tls(give, certificate)

    async def send_on(request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": f"{store.url}/data"})

    registry = await serve_tls(send_on, certificate, authority.file)
    assert await read(await world.client(registry.url, **files)) == CONTENT
    assert (registry.shown, store.shown) == ([own.der], [None])

    guarded = await serve_tls(give, certificate, authority.file)

    async def send_there(request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": guarded.url})

    thief = await serve_tls(send_there, certificate)
    with pytest.raises(OriginUnavailable, match=r"127\.0\.0\.1: "):
        await read(await world.client(thief.url, **files))
    assert guarded.seen == []


async def test_a_registry_that_misses_the_nodes_certificate_is_named(
    serve_tls: ServeTls, world: World, authority: Authority, certificate: Certificate
) -> None:
    site = await serve_tls(give, certificate, authority.file)
    with pytest.raises(OriginUnavailable, match=r"127\.0\.0\.1: ."):
        await tags(await world.client(site.url, ca_file=str(authority.file)))


@pytest.mark.parametrize("kind", ["missing", "nonsense", "encrypted"])
def test_certificates_that_cannot_be_used_stop_the_start(tmp_path: Path, authority: Authority, kind: str) -> None:
    own, key = authority.issue("node"), tmp_path / "key"
    if kind == "nonsense":
        key.write_text("no key")
    elif kind == "encrypted":
        from cryptography.hazmat.primitives import serialization as form

        way = form.BestAvailableEncryption(b"secret")
        key.write_bytes(own.key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, way))
    settings = EndpointSettings(url="https://a.example", cert_file=str(own.certificate_file), key_file=str(key))
    with pytest.raises(CredentialsUnreadable, match="key_file"):
        tls_contexts(settings)


# --- addresses and proxies ----------------------------------------------------------------------------------------


async def test_a_registry_at_an_ipv6_address(world: World) -> None:
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    try:
        async with listening(answer, "::1") as port:
            assert await tags(await world.client(f"http://[::1]:{port}")) == b"{}"
            assert f"Host: [::1]:{port}".encode() in seen[0]
    except OSError:
        pytest.skip("no IPv6 here")


class HttpProxy:
    """An HTTP proxy that takes every host for one on this machine. `login`: what it asks for."""

    def __init__(self, login: str = "") -> None:
        self.login = login
        self.asked: list[str] = []
        self.headers: list[bytes] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._handle(reader, writer)
        writer.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        self.asked.append(f"{method} {target}")
        self.headers.append(head)
        if self.login:
            wanted = f"Proxy-Authorization: Basic {base64.b64encode(self.login.encode()).decode()}"
            if wanted.lower().encode() not in head.lower():
                writer.write(b"HTTP/1.1 407 Sign In\r\nContent-Length: 0\r\n\r\n")
                return
        port = int(target.removeprefix("http://").partition("/")[0].rpartition(":")[2])
        there, to = await asyncio.open_connection("127.0.0.1", port)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            path = "/" + target.removeprefix("http://").partition("/")[2]
            to.write(head.replace(target.encode(), path.encode(), 1).replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\n", 1))
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, to))
            group.create_task(_copy(there, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
    except OSError:
        pass
    finally:
        writer.close()


async def test_a_registry_behind_connect_with_name_and_password(
    serve_tls: ServeTls, world: World, authority: Authority
) -> None:
    site = await serve_tls(give, authority.issue("registry.test"))
    port = site.url.rpartition(":")[2]
    proxy = HttpProxy("user:p@ss")
    async with listening(proxy.handle) as proxy_port:
        client = await world.client(
            f"https://registry.test:{port}",
            ca_file=str(authority.file),
            http_proxy=f"http://user:p%40ss@127.0.0.1:{proxy_port}",
        )
        assert await tags(client) == CONTENT
    assert proxy.asked == [f"CONNECT registry.test:{port}"]
    assert "Proxy-Authorization" not in site.seen[0].headers


async def test_the_general_proxies_by_scheme_and_no_proxy(serve: Serve, world: World) -> None:
    site = await serve(give)
    port, proxy = site.url.rpartition(":")[2], HttpProxy()
    async with listening(proxy.handle) as proxy_port:
        url = f"http://127.0.0.1:{proxy_port}"
        client = await world.client(f"http://registry.test:{port}", general=ProxySettings(http_proxy=url))
        assert await tags(client) == CONTENT
        assert proxy.asked == [f"GET http://registry.test:{port}/v2/team/app/tags/list"]
        direct = ProxySettings(http_proxy=url, no_proxy=["registry.test"])
        with pytest.raises(Unreachable, match="does not resolve"):
            await tags(await world.client(f"http://registry.test:{port}", general=direct, retries=0))
        only_secure = ProxySettings(https_proxy=url)
        with pytest.raises(Unreachable, match="does not resolve"):
            await tags(await world.client(f"http://registry.test:{port}", general=only_secure, retries=0))
    assert len(proxy.asked) == 1


async def test_token_servers_and_stores_of_an_upstream_are_behind_its_proxy_too(serve: Serve, world: World) -> None:
    store = await serve(give)
    registry = TokenRegistry()

    async def send_on(request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": store.url.replace("127.0.0.1", "store.test")})

    registry.answer = send_on
    url = (await registry.start(serve)).replace("127.0.0.1", "registry.test")
    registry.realm = registry.realm.replace("127.0.0.1", "auth.test")
    proxy = HttpProxy()
    async with listening(proxy.handle) as proxy_port:
        client = await world.client(url, http_proxy=f"http://127.0.0.1:{proxy_port}")
        assert await read(client) == CONTENT
    hosts = [line.split("/")[2].partition(":")[0] for line in proxy.asked]
    assert hosts == ["registry.test", "auth.test", "registry.test", "store.test"]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_refuses_is_told_without_its_password(world: World, scheme: str) -> None:
    async with listening(HttpProxy("user:right").handle) as port:
        client = await world.client(
            f"{scheme}://registry.test:1", http_proxy=f"http://user:wrong-password@127.0.0.1:{port}", retries=0
        )
        with pytest.raises(OriginError, match="407") as caught:
            await tags(client)
    assert "wrong-password" not in str(caught.value)


async def test_a_proxy_that_is_down_is_told_without_its_password(world: World, unused_tcp_port: int) -> None:
    way = f"http://user:secret@127.0.0.1:{unused_tcp_port}"
    client = await world.client("https://registry.test", http_proxy=way, retries=0)
    with pytest.raises(Unreachable, match=rf"registry\.test: the HTTP proxy 127\.0\.0\.1:{unused_tcp_port} ") as caught:
        await tags(client)
    assert "secret" not in str(caught.value)


# --- redirects ----------------------------------------------------------------------------------------------------


async def test_tls_is_not_left_by_a_redirect(
    serve: Serve, serve_tls: ServeTls, world: World, authority: Authority, certificate: Certificate
) -> None:
    plain = await serve(give)

    async def send_on(request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": f"{plain.url}/data?sig=secret"})

    registry = await serve_tls(send_on, certificate)
    with pytest.raises(OriginUnavailable, match=r"127\.0\.0\.1 redirects to 127\.0\.0\.1 without TLS") as caught:
        await read(await world.client(registry.url, ca_file=str(authority.file)))
    assert "secret" not in str(caught.value)
    assert plain.seen == []


async def test_a_signed_address_is_asked_for_anew_with_each_request(serve: Serve, world: World) -> None:
    store = await serve(give)
    count = iter(range(10))

    async def send_on(request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": f"{store.url}/data?sig={next(count)}"})

    client = await world.client((await serve(send_on)).url)
    for _ in range(3):
        await read(client)
    assert [request.query_string for request in store.seen] == ["sig=0", "sig=1", "sig=2"]


SECRET = "X-Amz-Signature=c2VjcmV0"


async def _garbage(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.write(b"HTTP/9.9 what?\xff\r\n\r\n")
    request.transport.close()
    return web.Response()


async def _gone(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def _short(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(CONTENT))})
    await response.prepare(request)
    await response.write(CONTENT[:3])
    assert request.transport is not None
    request.transport.close()
    return response


async def _silent(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


def _status(status: int, **headers: str) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={name.replace("_", "-"): text for name, text in headers.items()})

    return answer


STORES: dict[str, Handler] = {
    **{str(status): _status(status) for status in (400, 401, 403, 404, 410, 416, 418, 429, 500, 503, 206)},
    "basic": _status(401, WWW_Authenticate="Basic"),
    "token": _status(401, WWW_Authenticate='Bearer realm="http://127.0.0.1:1/t"'),
    "realm": _status(401, WWW_Authenticate='Bearer realm="nonsense"'),
    "loop": _status(307, Location=f"/data?{SECRET}"),
    "away": _status(307, Location=f"ftp://127.0.0.1/data?{SECRET}"),
    "range": _status(206, Content_Range="bytes 5-9/3"),
    "garbage": _garbage,
    "gone": _gone,
    "short": _short,
    "silent": _silent,
}


@pytest.mark.parametrize("kind", [*STORES, "down", "port", "name"])
async def test_no_error_shows_a_signed_address(
    serve: Serve, world: World, unused_tcp_port: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.retry.ANSWER_SECONDS", 0.3)
    elsewhere = {
        "down": f"http://127.0.0.1:{unused_tcp_port}",
        "port": "http://a.test:99999",
        "name": "http://a.invalid",
    }
    store = elsewhere.get(kind) or (await serve(STORES[kind])).url

    async def send_on(request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": f"{store}/data?{SECRET}"})

    client = await world.client((await serve(send_on)).url, retries=0, read_timeout=0.2)
    asked: list[Awaitable[object]] = [read(client)]
    if kind not in {"206", "range", "short"}:  # which tell a size, or are a list
        asked += [client.head(AT, BLOB.digest, BlobKind.BLOB, ANONYMOUS), tags(client)]
    for question in asked:
        with pytest.raises(OriginError) as caught:
            await question
        text = f"{caught.value!r} {caught.value} {getattr(caught.value, 'challenges', '')}"
        assert "c2VjcmV0" not in text
        assert text.isascii()


LOCATIONS = [
    "http://a.test:99999/",
    "http://a.test:x/",
    "http://[::1/",
    "https://",
    "//",
    "javascript:alert(1)",
    "http://\udcff.test/",
    "http://" + "a" * 70 + ".test/",
    "http://.test/",
    "http://a b.test/",
]


@pytest.mark.parametrize("target", LOCATIONS)
async def test_a_redirect_that_is_no_address_is_an_error_of_the_origin(serve: Serve, world: World, target: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        location = target.encode("utf-8", "surrogateescape")
        writer.write(b"HTTP/1.1 307 x\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")
        writer.close()

    async with listening(answer) as port:
        with pytest.raises(OriginUnavailable):
            await tags(await world.client(f"http://127.0.0.1:{port}", retries=0))


async def test_the_address_of_a_redirect_goes_out_as_it_came_and_as_one_line(world: World) -> None:
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]
        asked.append(line)
        if b"/moved" in line:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        else:
            place = b"/moved a/\xc3\xa4?sig=a%2Fb+c%20d'(~)&x={y}|z#part"
            writer.write(b"HTTP/1.1 307 x\r\nContent-Length: 0\r\nLocation: " + place + b"\r\n\r\n")
        writer.close()

    async with listening(answer) as port:
        assert await tags(await world.client(f"http://127.0.0.1:{port}")) == b"{}"
    assert asked[1] == b"GET /moved%20a/%C3%A4?sig=a%2Fb+c%20d'(~)&x={y}|z HTTP/1.1"


async def test_a_name_and_a_password_in_a_redirect_are_not_used(serve: Serve, world: World) -> None:
    wanted = basic("node", "n")

    async def guarded(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != wanted:
            return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})
        if request.path == "/moved":
            return web.Response(body=CONTENT)
        return web.Response(status=307, headers={"Location": f"http://eve:x@{request.host}/moved"})

    site = await serve(guarded)
    assert await read(await world.client(site.url, username="node", password="n")) == CONTENT


async def test_head_through_a_redirect_to_a_store_that_knows_only_get(serve: Serve, world: World) -> None:
    async def store(request: web.Request) -> web.StreamResponse:
        if request.method == "HEAD":
            return web.Response(status=403)
        if "Range" in request.headers:
            return web.Response(status=206, body=CONTENT[:1], headers={"Content-Range": f"bytes 0-0/{len(CONTENT)}"})
        return web.Response(body=CONTENT)

    site = await serve(store)

    async def send_on(request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": f"{site.url}/data"})

    client = await world.client((await serve(send_on)).url)
    assert (await client.head(AT, BLOB.digest, BlobKind.BLOB, ANONYMOUS)).size == len(CONTENT)


async def test_a_head_that_is_refused_with_a_token_for_nobody_is_only_a_hint(serve: Serve, world: World) -> None:
    registry = TokenRegistry()

    async def no_head(request: web.Request) -> web.StreamResponse:
        return web.Response(status=403) if request.method == "HEAD" else web.Response(body=CONTENT)

    registry.answer = no_head
    client = await world.client(await registry.start(serve))
    assert (await client.head(AT, BLOB.digest, BlobKind.BLOB, ANONYMOUS)).size == len(CONTENT)


# --- a redirect to a registry that wants a token of its own ---------------------------------------------------------


async def between(serve: Serve, second: TokenRegistry) -> str:
    """The address of a registry with basic authentication that sends on to `second`."""
    target = await second.start(serve)

    async def first(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") not in {basic("node", "n"), ALICE.authorization}:
            return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})
        return web.Response(status=307, headers={"Location": target + request.path_qs})

    return (await serve(first)).url


async def test_a_second_registry_is_met_with_a_token_for_nobody(serve: Serve, world: World) -> None:
    second = TokenRegistry()
    client = await world.client(await between(serve, second), username="node", password="n")
    assert await read(client) == CONTENT
    assert await tags(client, ALICE) == CONTENT
    assert [who for _, who, _ in second.asked] == ["nobody"]
    assert set(second.sent) == {None, "Bearer token-1"}
    assert second.site is not None
    for request in second.site.seen:
        assert request.headers.get("Authorization", "").removeprefix("Bearer token-1") == ""


async def test_a_token_that_the_second_registry_takes_no_more_is_renewed(serve: Serve, world: World) -> None:
    second = TokenRegistry()
    client = await world.client(await between(serve, second), username="node", password="n")
    await read(client)
    second.bad.add("token-1")
    assert await read(client) == CONTENT
    assert len(second.asked) == 2


async def test_a_second_registry_that_takes_no_token_is_no_loop(serve: Serve, world: World) -> None:
    second = TokenRegistry()
    second.bad |= {f"token-{number}" for number in range(1, 10)}
    client = await world.client(await between(serve, second), username="node", password="n")
    with pytest.raises(OriginDenied) as caught:
        await tags(client, ALICE)
    assert len(second.sent) == 3
    assert caught.value.challenges == ()
