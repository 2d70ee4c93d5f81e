"""Who may read what: the books alone, and two users of one private repository through the whole mirror."""

from __future__ import annotations

import base64
import contextlib
import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
import pytest
from aiohttp import BasicAuth, web
from multidict import CIMultiDict
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from peer.origin import OriginDenied
from proxy.catalogue import Catalogue
from proxy.identity import ANONYMOUS, Identity, basic, client_identity, node_identity
from proxy.limits import LimitBoard
from proxy.metrics import ProxyMetrics
from proxy.rights import MAX_ENTRIES, REFUSED_SECONDS, Rights
from proxy.server import ProxyServer
from proxy.settings import ProxySettings, UpstreamSettings
from proxy.upstream import UpstreamClient
from shoal.audit import Audit
from shoal.descriptor import OCI_MANIFEST, Descriptor
from shoal.digest import Digest
from shoal.reference import Location
from tests.proxy.conftest import Answer, MemoryBlob, MemoryEngine

if TYPE_CHECKING:
    from peer.asked import Asked
    from tests.proxy.conftest import Handler, Site

    Serve = Callable[[Handler], Awaitable[Site]]

REGISTRY = "registry.example:5000"
AT = Location.parse(REGISTRY, "team/private")
ELSEWHERE = Location.parse(REGISTRY, "team/other")
NODE = node_identity("deploy", "x")
NO = OriginDenied("no")


def client(authorization: str) -> Identity:
    identity = client_identity([authorization])
    assert identity is not None
    return identity


ALICE, BOB = client(basic("alice", "alice-secret")), client(basic("bob", "bob-secret"))


# --- the books ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("identity", "later"), [(ALICE, False), (ANONYMOUS, True), (NODE, True)])
def test_a_yes_to_a_client_is_short(identity: Identity, later: bool) -> None:
    rights = Rights(60.0)
    assert rights.grant(AT, identity, 100.0)
    assert not rights.grant(AT, identity, 100.0)
    assert rights.are_granted(AT, identity, 159.0)
    assert rights.are_granted(AT, identity, 160.0) == later


def test_a_yes_is_for_one_place_and_one_identity() -> None:
    rights = Rights(60.0)
    rights.grant(AT, ALICE, 0.0)
    others = [(AT, BOB), (AT, ANONYMOUS), (AT, NODE), (ELSEWHERE, ALICE), (AT, client(basic("alice", "wrong")))]
    assert not any(rights.are_granted(*other, 0.0) for other in others)


def test_a_no_is_shorter_and_ends_a_yes_and_a_yes_ends_it() -> None:
    rights = Rights(60.0)
    rights.grant(AT, ALICE, 0.0)
    rights.refuse(AT, ALICE, NO, 1.0)
    assert not rights.are_granted(AT, ALICE, 1.0)
    assert rights.refusal(AT, ALICE, REFUSED_SECONDS) is NO
    assert rights.refusal(AT, BOB, 1.0) is None
    assert rights.refusal(AT, ALICE, 1.0 + REFUSED_SECONDS) is None
    rights.grant(AT, ALICE, 2.0)
    assert rights.refusal(AT, ALICE, 2.0) is None


def test_a_no_that_is_given_again_holds_no_requests() -> None:
    rights = Rights(60.0)
    rights.refuse(AT, ALICE, OriginDenied("no"), 0.0)
    lengths = set()
    for _ in range(20):
        error = rights.refusal(AT, ALICE, 0.0)
        assert error is not None
        with pytest.raises(OriginDenied) as caught:
            raise error
        lengths.add(len(traceback.extract_tb(caught.value.__traceback__)))
    assert lengths == {1}


def test_a_refresh_forgets_clients_and_refusals_of_its_place_alone() -> None:
    rights = Rights(60.0)
    for location in (AT, ELSEWHERE):
        rights.grant(location, ALICE, 0.0)
        rights.grant(location, ANONYMOUS, 0.0)
        rights.refuse(location, BOB, NO, 0.0)
    rights.forget_clients(AT)
    assert [rights.are_granted(AT, who, 1.0) for who in (ALICE, ANONYMOUS)] == [False, True]
    assert rights.refusal(AT, BOB, 1.0) is None
    assert rights.are_granted(ELSEWHERE, ALICE, 1.0)
    assert rights.refusal(ELSEWHERE, BOB, 1.0) is NO


def test_the_books_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_ENTRIES == 50_000
    monkeypatch.setattr("proxy.rights.MAX_ENTRIES", 3)
    rights = Rights(60.0)
    clients = [client(f"Bearer {number}") for number in range(5)]
    for each in clients:
        rights.grant(AT, each, 0.0)
    assert [rights.are_granted(AT, each, 0.0) for each in clients] == [False, False, True, True, True]


# --- the whole mirror ---------------------------------------------------------------------------------------------

CONFIG, LAYER = b'{"os":"linux"}', b"a layer that only some may have" * 100
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "x/config", "digest": Digest.of(CONFIG), "size": len(CONFIG)},
        "layers": [{"mediaType": "x/layer", "digest": Digest.of(LAYER), "size": len(LAYER)}],
    }
).encode()
WHOLE: dict[str, bytes] = {Digest.of(content): content for content in (CONFIG, LAYER, MANIFEST)}
ASKED = {
    "tag": ("manifests/1.0", MANIFEST),
    "digest": (f"manifests/{Digest.of(MANIFEST)}", MANIFEST),
    "blob": (f"blobs/{Digest.of(LAYER)}", LAYER),
}
Scheme = Literal["token", "basic"]
EXTRA = 'Custom note="a, b", x=y'
"""A challenge that nobody here knows, in a header of its own."""


@dataclass
class GuardedRegistry:
    """A registry of three repositories, and the passwords of its users."""

    scheme: Scheme
    users: dict[str, str] = field(
        default_factory=lambda: {"alice": "alice-secret", "bob": "bob-secret", "deploy": "deploy-secret"}
    )
    readers: dict[str, set[str]] = field(
        default_factory=lambda: {
            "team/private": {"alice", "deploy"},
            "team/other": {"bob"},
            "team/public": {"alice", "bob", "deploy", ""},
        }
    )
    contents: dict[str, dict[str, bytes]] = field(
        default_factory=lambda: {"team/private": dict(WHOLE), "team/other": {}, "team/public": dict(WHOLE)}
    )
    status: int = 0
    """Answers everything in its place."""
    url: str = ""
    seen: list[web.Request] = field(default_factory=list)

    async def start(self, serve: Serve) -> None:
        site = await serve(self.handle)
        self.url, self.seen = site.url, site.seen

    @property
    def challenges(self) -> list[str]:
        mine = f'Bearer realm="{self.url}/token",service="reg"' if self.scheme == "token" else 'Basic realm="reg"'
        return [mine, EXTRA]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.status:
            return web.Response(status=self.status)
        if request.path == "/token":
            user = self._user(request)
            return web.Response(status=401) if user is None else web.json_response({"token": self.token(user)})
        user = self._user(request)
        if request.path == "/v2/":
            return web.json_response({}) if user else self._refuse()
        repository, kind, reference = request.path.removeprefix("/v2/").rsplit("/", 2)
        if user is None or user not in self.readers[repository]:
            return web.Response(status=403) if user and self.scheme == "basic" else self._refuse()
        if kind == "tags":
            return web.json_response({"name": repository, "tags": ["1.0"]})
        digest = Digest.of(MANIFEST) if reference == "1.0" else reference
        content = self.contents[repository].get(digest)
        if content is None:
            return web.Response(status=404)
        headers = {"Docker-Content-Digest": digest, "Content-Type": OCI_MANIFEST if kind == "manifests" else "x/y"}
        return web.Response(body=content, headers=headers)

    def token(self, user: str) -> str:
        return f"token-of-{user or 'nobody'}"

    def _refuse(self) -> web.Response:
        return web.Response(status=401, headers=CIMultiDict([("WWW-Authenticate", each) for each in self.challenges]))

    def _user(self, request: web.Request) -> str | None:
        """Who asks, "" for nobody; None for who is not who he says."""
        header = request.headers.get("Authorization")
        if header is None:
            return "" if self.scheme == "basic" or request.path == "/token" else None
        if header.startswith("Bearer "):
            tokens = {self.token(user): user for user in ("", *self.users)}
            return tokens.get(header.removeprefix("Bearer ")) if self.scheme == "token" else None
        if self.scheme == "token" and request.path != "/token":
            return None
        login = BasicAuth.decode(header)
        return login.login if self.users.get(login.login) == login.password else None


class FetchingEngine(MemoryEngine):
    """An engine that keeps what it has fetched, and knows of names only what manifests of the same place said."""

    def __init__(self, folder: Path, upstreams: UpstreamClient) -> None:
        super().__init__(folder)
        self.upstreams = upstreams

    def named(self, digest: Digest, location: Location) -> Descriptor | None:
        return self.plans.known(digest, location)

    async def open(
        self, blob: Descriptor, location: Location, asked: Asked | None = None, since: float | None = None
    ) -> MemoryBlob:
        if self.store.find(blob.digest) is None:
            async with self.upstreams.fetch(location, blob) as body:
                self.store.put(b"".join([chunk async for chunk in body.chunks()]))
        return MemoryBlob(self, blob)


class Mirror:
    """A node in front of the registry; `restart` keeps its folder."""

    def __init__(self, folder: Path, url: str, general: dict[str, Any], upstream: dict[str, Any]) -> None:
        self.folder = folder
        self._settings = ProxySettings(port=0, upstreams={REGISTRY: UpstreamSettings(url=url, **upstream)}, **general)
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> None:
        stack, metrics = self._stack, ProxyMetrics(CollectorRegistry())
        blobs = self.folder / "blobs"
        blobs.mkdir(exist_ok=True)
        upstreams = await stack.enter_async_context(UpstreamClient(self._settings, LimitBoard(metrics, None)))
        catalogue = await stack.enter_async_context(Catalogue(self.folder / "catalogue.sqlite"))
        self.engine = FetchingEngine(blobs, upstreams)
        audit = await stack.enter_async_context(Audit(self.folder / "audit.log"))
        server = ProxyServer(self._settings, self.engine, None, upstreams, catalogue, metrics, audit=audit)
        await stack.enter_async_context(server)
        self.session = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        self.url = f"http://127.0.0.1:{server.port}"

    async def close(self) -> None:
        await self._stack.aclose()

    async def restart(self) -> None:
        await self.close()
        await self.start()

    async def ask(
        self, path: str, authorization: str | None = None, repository: str = "team/private", method: str = "GET"
    ) -> Answer:
        headers = {} if authorization is None else {"Authorization": authorization}
        url = f"{self.url}/v2/{repository}/{path}?ns={REGISTRY}"
        async with self.session.request(method, url, headers=headers) as response:
            return Answer(response.status, CIMultiDict(response.headers), await response.read())

    async def pull(self, authorization: str | None, repository: str = "team/private") -> list[int]:
        """The statuses of all that a client asks for of an image."""
        paths = [path for path, _ in ASKED.values()] + [f"blobs/{Digest.of(CONFIG)}"]
        return [(await self.ask(path, authorization, repository)).status for path in paths]


Mirrors = Callable[..., Awaitable[tuple[GuardedRegistry, Mirror]]]


@pytest.fixture
async def mirrors(serve: Serve, tmp_path: Path) -> AsyncIterator[Mirrors]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            scheme: Scheme, general: dict[str, Any] | None = None, **upstream: Any
        ) -> tuple[GuardedRegistry, Mirror]:
            registry = GuardedRegistry(scheme)
            await registry.start(serve)
            mirror = Mirror(tmp_path, registry.url, general or {}, upstream)
            stack.push_async_callback(mirror.close)
            await mirror.start()
            return registry, mirror

        yield start


BOTH = pytest.mark.parametrize("scheme", ["token", "basic"])
WARM = pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
KINDS = pytest.mark.parametrize("kind", ASKED)
CLIENTS: dict[str, tuple[str | None, bool]] = {
    "alice": (basic("alice", "alice-secret"), True),
    "bob": (basic("bob", "bob-secret"), False),
    "alice, wrongly": (basic("alice", "bob-secret"), False),
    "nobody": (None, False),
    "alice's token": ("Bearer token-of-alice", True),
    "bob's token": ("Bearer token-of-bob", False),
    "a false token": ("Bearer x", False),
}


@BOTH
@WARM
@KINDS
@pytest.mark.parametrize("who", CLIENTS)
async def test_everybody_gets_what_the_registry_would_have_said(
    mirrors: Mirrors, scheme: Scheme, warm: bool, kind: str, who: str
) -> None:
    authorization, may = CLIENTS[who]
    if scheme == "basic" and authorization is not None and authorization.startswith("Bearer "):
        may = False
    registry, mirror = await mirrors(scheme)
    if warm:
        assert await mirror.pull(CLIENTS["alice"][0]) == [200] * 4
    path, content = ASKED[kind]
    for method in ("GET", "HEAD", "GET"):
        answer = await mirror.ask(path, authorization, method=method)
        if may:
            assert (answer.status, answer.body) == (200, content if method == "GET" else b"")
        elif who == "bob" and scheme == "basic":
            assert answer.status == 403
        else:
            assert answer.status == 401
            assert answer.headers.getall("WWW-Authenticate") == registry.challenges
        if not may:
            assert content not in answer.body


@BOTH
async def test_a_right_password_is_no_right_for_a_wrong_one(mirrors: Mirrors, scheme: Scheme) -> None:
    _, mirror = await mirrors(scheme)
    assert await mirror.pull(basic("alice", "alice-secret")) == [200] * 4
    assert await mirror.pull(basic("alice", "wrong")) == [401] * 4
    assert await mirror.pull(basic("alice", "alice-secret")) == [200] * 4


@BOTH
async def test_a_right_that_the_registry_takes_away_ends(mirrors: Mirrors, scheme: Scheme) -> None:
    registry, mirror = await mirrors(scheme, {"rights_freshness": 0.0, "tag_freshness": 0.0})
    alice = basic("alice", "alice-secret")
    assert await mirror.pull(alice) == [200] * 4
    registry.readers["team/private"].discard("alice")
    assert set(await mirror.pull(alice)) <= {401, 403}


@BOTH
async def test_a_stored_blob_is_served_where_the_registry_has_it(mirrors: Mirrors, scheme: Scheme) -> None:
    registry, mirror = await mirrors(scheme)
    bob, own = basic("bob", "bob-secret"), b"a layer of bob's"
    registry.contents["team/other"][Digest.of(own)] = own
    assert await mirror.pull(basic("alice", "alice-secret")) == [200] * 4
    for who, repository in ((bob, "team/other"), (None, "team/public")):
        registry.contents["team/public"] = {Digest.of(own): own}
        assert (await mirror.ask(f"blobs/{Digest.of(own)}", who, repository)).status == 200  # so he may read there
        assert [(await mirror.ask(ASKED[kind][0], who, repository)).status for kind in ("blob", "digest")] == [404, 404]
    registry.contents["team/other"].update(WHOLE)
    assert (await mirror.ask(f"blobs/{Digest.of(CONFIG)}", bob, "team/other")).status == 200


@BOTH
async def test_what_everybody_may_read_is_asked_for_once(mirrors: Mirrors, scheme: Scheme) -> None:
    registry, mirror = await mirrors(scheme)
    assert await mirror.pull(None, "team/public") == [200] * 4
    registry.seen.clear()
    assert await mirror.pull(None, "team/public") == [200] * 4
    assert registry.seen == []
    assert await mirror.pull(basic("bob", "bob-secret"), "team/public") == [200] * 4
    assert len([request for request in registry.seen if request.path != "/token"]) == 1


@BOTH
@pytest.mark.parametrize("shared", [False, True])
async def test_the_nodes_own_credentials_serve_everybody_where_the_configuration_says_so(
    mirrors: Mirrors, scheme: Scheme, shared: bool
) -> None:
    _, mirror = await mirrors(scheme, username="deploy", password="deploy-secret", share_credentials=shared)
    assert await mirror.pull(None) == [200 if shared else 401] * 4
    assert await mirror.pull(basic("alice", "alice-secret")) == [200] * 4
    assert await mirror.pull(None) == [200 if shared else 401] * 4
    assert set(await mirror.pull(basic("bob", "bob-secret"))) <= {401, 403}


@BOTH
async def test_a_clients_credentials_serve_nobody_who_says_nothing(mirrors: Mirrors, scheme: Scheme) -> None:
    """The engine may fetch as a client; what it has fetched so is still his alone."""
    _, mirror = await mirrors(scheme)
    alice, path = basic("alice", "alice-secret"), ASKED["blob"][0]
    await mirror.ask("manifests/1.0", alice)
    assert (await mirror.ask(path)).status == 401
    assert (await mirror.ask(path, alice)).status == 200
    assert (await mirror.ask(path)).status == 401


@BOTH
@KINDS
async def test_while_the_registry_is_down(mirrors: Mirrors, scheme: Scheme, kind: str) -> None:
    registry, mirror = await mirrors(scheme, {"tag_freshness": 0.0}, retries=0)
    alice, path = basic("alice", "alice-secret"), ASKED[kind][0]
    assert await mirror.pull(alice) == [200] * 4
    assert await mirror.pull(None, "team/public") == [200] * 4
    registry.status = 503
    assert (await mirror.ask(path, alice)).status == 200  # whose right was asked for a moment ago
    assert (await mirror.ask(path, None, "team/public")).status == 200
    for stranger in (basic("bob", "bob-secret"), basic("alice", "wrong")):
        assert (await mirror.ask(path, stranger)).status == 502
    assert (await mirror.ask(path)).status in {401, 502}
    await mirror.restart()
    stale = await mirror.ask(path, None, "team/public")
    assert stale.status == 200
    assert ("Warning" in stale.headers) == (kind == "tag")
    assert (await mirror.ask(path, alice)).status == 502
    assert (await mirror.ask(path)).status in {401, 502}


async def test_at_its_limit_what_is_cached_goes_on(mirrors: Mirrors) -> None:
    registry, mirror = await mirrors("basic", {"tag_freshness": 0.0})
    assert await mirror.pull(None, "team/public") == [200] * 4
    registry.status = 429
    registry.seen.clear()
    for _ in range(3):
        assert await mirror.pull(None, "team/public") == [200] * 4
    assert len(registry.seen) == 1
    assert (await mirror.ask("manifests/1.0", None, "team/public")).headers["Warning"].startswith('299 - "')


@pytest.mark.parametrize(
    "headers",
    [
        ["Digest username=alice"],
        ["Basic"],
        ["Basic !"],
        ["Bearer a b"],
        [basic("alice", "alice-secret"), basic("bob", "bob-secret")],
        ["Bearer " + "x" * 20_000],
    ],
)
async def test_an_authorization_that_nobody_could_judge_is_a_400(mirrors: Mirrors, headers: list[str]) -> None:
    registry, mirror = await mirrors("basic")
    sent = CIMultiDict([("Authorization", header) for header in headers])
    for path in ("", "team/public/manifests/1.0", f"team/public/{ASKED['blob'][0]}", "team/public/tags/list"):
        async with mirror.session.get(f"{mirror.url}/v2/{path}?ns={REGISTRY}", headers=sent) as response:
            body = await response.json()
            assert (response.status, body["errors"][0]["code"]) == (400, "UNAUTHORIZED")
            assert base64.b64encode(b"alice:alice-secret").decode() not in str(body)
    assert registry.seen == []


@BOTH
async def test_lists_are_judged_like_everything_else(mirrors: Mirrors, scheme: Scheme) -> None:
    registry, mirror = await mirrors(scheme)
    assert (await mirror.ask("tags/list", basic("alice", "alice-secret"))).status == 200
    assert (await mirror.ask("tags/list", basic("bob", "bob-secret"))).status in {401, 403}
    nobody = await mirror.ask("tags/list")
    assert (nobody.status, nobody.headers.getall("WWW-Authenticate")) == (401, registry.challenges)


@BOTH
async def test_no_secret_is_written_down_or_told_to_others(mirrors: Mirrors, scheme: Scheme, tmp_path: Path) -> None:
    logs: list[MutableMapping[str, Any]]
    answers: list[bytes] = []
    with capture_logs() as logs:
        registry, mirror = await mirrors(
            scheme,
            {"tag_freshness": 0.0},
            username="deploy",
            password="deploy-secret",
            retries=0,
        )
        paths = ("manifests/1.0", ASKED["blob"][0], "tags/list", "manifests/none")
        for registry.status in (0, 503, 429):
            for authorization, _ in CLIENTS.values():
                answers += [(await mirror.ask(path, authorization)).body for path in paths]
        await mirror.close()
    assert any(entry["event"] == "proxy.request" for entry in logs)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"catalogue.sqlite", "audit.log"} <= {path.name for path in files}
    written = b"\n".join([path.read_bytes() for path in files])
    told = written + repr(logs).encode() + b"\n".join(answers)
    for user, password in registry.users.items():
        for secret in (password, basic(user, password).removeprefix("Basic "), f"token-of-{user}"):
            assert secret.encode() not in told
    assert client(basic("alice", "alice-secret")).key.removeprefix("client:").encode() not in written
