"""Who may read what: users of one private repository, a real registry with passwords or tokens, nodes in a swarm."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.images import BenchImage, write_image
from bench.origin import PROGRAM
from tests.world.certificates import Authority
from tests.world.client import Got, get
from tests.world.nodes import Node, Supernode, wait_until
from tests.world.programs import require
from tests.world.registries import USERS, Registry
from tests.world.swarm import UPSTREAM
from tests.world.tokens import TokenServer

PRIVATE, OPEN = "library/private", "library/open"
LAYERS = [300_000, 600_000]


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


ALICE, WRONG = basic("alice", USERS["alice"]), basic("alice", "wrong")


@dataclass
class World:
    """A registry that lets alice read, two nodes before it, and what is asked for."""

    login: str
    tokens: TokenServer
    nodes: list[Node]
    image: BenchImage
    registry: Registry

    @property
    def challenge(self) -> str:
        """What the registry's challenge begins with."""
        return 'Basic realm="registry.test"' if self.login == "password" else f'Bearer realm="{self.tokens.realm}"'

    def bearer(self, user: str) -> str:
        """A token that the registry's own token server gives a user for the private repository."""
        url = f"{self.tokens.realm}?service={self.tokens.service}&scope=repository:{PRIVATE}:pull"
        request = urllib.request.Request(url, headers={"Authorization": basic(user, USERS[user])})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return f"Bearer {json.load(answer)['token']}"

    @property
    def paths(self) -> list[str]:
        """Each kind of thing that is asked for: by tag, by digest, a layer, a range, lists."""
        return [
            f"/v2/{PRIVATE}/manifests/latest",
            f"/v2/{PRIVATE}/manifests/{self.image.digest}",
            f"/v2/{PRIVATE}/blobs/{self.layer}",
            f"/v2/{PRIVATE}/tags/list",
        ]

    @property
    def layer(self) -> str:
        return self.image.blobs[1][0]

    def ask(self, node: Node, path: str, authorization: str | None, method: str = "GET") -> Got:
        headers = {"Authorization": authorization} if authorization is not None else {}
        return get(node, path, method, **headers)


@pytest.fixture(params=["password", "token"])
def world(request: pytest.FixtureRequest, supernode: Supernode, tmp_path: Path, stack: ExitStack) -> Iterator[World]:
    require(PROGRAM)
    tokens = TokenServer(Authority(tmp_path / "authority"), USERS, {"alice": ["library/*"], "": [OPEN]})
    tokens.start(stack)
    by_token = request.param == "token"
    registry = Registry(tmp_path / "registry", tokens=tokens if by_token else None, htpasswd=not by_token)
    image = write_image(registry.root, PRIVATE, LAYERS)
    write_image(registry.root, OPEN, [1000])
    registry.start(stack)
    supernode.start(stack)
    settings = {"SHOAL_PROXY__RIGHTS_FRESHNESS": "5s"}
    nodes = [
        Node(tmp_path / name, {UPSTREAM: registry.url}, supernode.port, settings=settings)
        for name in ("first", "second")
    ]
    for node in nodes:
        node.start(stack)
    yield World(request.param, tokens, nodes, image, registry)


def test_each_client_gets_what_the_registry_would_say(world: World) -> None:
    first, second = world.nodes
    refused = [None, WRONG] + ([basic("bob", USERS["bob"]), world.bearer("bob")] if world.login == "token" else [])
    allowed = [ALICE] + ([world.bearer("alice")] if world.login == "token" else [])

    def check(node: Node) -> None:
        for path in world.paths:
            for method in ("HEAD", "GET"):
                for authorization in refused:
                    got = world.ask(node, path, authorization, method)
                    assert got.status in {401, 403}, (path, method, authorization)
                    if authorization is None:
                        assert got.headers["www-authenticate"].startswith(
                            "Basic" if world.login == "password" else "Bearer"
                        )
                    if world.login == "token" and authorization is None:
                        assert f'realm="{world.tokens.realm}"' in got.headers["www-authenticate"]

    check(first)  # cold
    for authorization in allowed:
        for path in world.paths:
            assert world.ask(first, path, authorization).status == 200
    wait_until(lambda: {world.image.digest, world.layer} <= first.stored(), "the image is stored")
    check(first)  # warm
    check(second)  # what its neighbour has
    assert not second.stored()
    before = world.registry.sent()
    for path in world.paths[:3]:
        assert world.ask(second, path, ALICE).status == 200
    assert second.received("peer") > LAYERS[0]
    assert world.registry.sent() - before < LAYERS[0]
    check(second)
    for node in world.nodes:
        for secret in (USERS["alice"], ALICE.split(" ")[1]):
            assert secret not in node.log
            for file in node.folder.glob("store/*.sqlite*"):
                assert secret.encode() not in file.read_bytes()


def test_a_warm_blob_is_not_given_under_another_name(world: World) -> None:
    first, _ = world.nodes
    for path in world.paths[:3]:
        assert world.ask(first, path, ALICE).status == 200
    for kind, digest in (("blobs", world.layer), ("manifests", world.image.digest)):
        for authorization in (None, ALICE):
            got = world.ask(first, f"/v2/{OPEN}/{kind}/{digest}", authorization)
            assert got.status in {401, 403, 404}, (kind, authorization)


def test_a_login_to_the_mirror_is_the_registrys_to_judge(world: World) -> None:
    first, _ = world.nodes
    assert world.ask(first, "/v2/", None).status == 401
    assert world.ask(first, "/v2/", WRONG).status in {401, 403}
    assert world.ask(first, "/v2/", ALICE).status == 200
    assert world.ask(first, "/v2/", "Digest nonsense").status == 400


def test_the_nodes_own_credentials_serve_others_only_where_that_is_said(
    world: World, tmp_path: Path, stack: ExitStack
) -> None:
    upstream = {"url": world.registry.url, "username": "alice", "password": USERS["alice"]}
    outcomes = []
    for share in (False, True):
        settings = {"SHOAL_PROXY__UPSTREAMS": json.dumps({UPSTREAM: upstream | {"share_credentials": share}})}
        node = Node(tmp_path / f"sharing {share}", {UPSTREAM: world.registry.url}, settings=settings)
        with ExitStack() as inner:
            node.start(inner)
            outcomes.append([world.ask(node, path, None).status for path in world.paths])
            assert world.ask(node, world.paths[0], ALICE).status == 200
            assert world.ask(node, world.paths[0], WRONG).status in {401, 403}
    assert set(outcomes[0]) <= {401, 403}
    assert set(outcomes[1]) == {200}
    # and with the credentials gone from the configuration, what they brought is nobody's
    node = Node(tmp_path / "sharing True", {UPSTREAM: world.registry.url})
    node.start(stack)
    assert {world.ask(node, path, None).status for path in world.paths} <= {401, 403}


@pytest.mark.parametrize("world", ["token"], indirect=True)
def test_a_repository_that_is_made_private_is_nobodys_on_all_nodes(world: World) -> None:
    """The second node has confirmed it to the cluster, and so been told by the registry itself that all may read."""
    first, second = world.nodes
    path = f"/v2/{OPEN}/manifests/latest"
    world.tokens.lifetime = 1.0
    for node in world.nodes:
        assert world.ask(node, path, None).status == 200
    world.tokens.grants[""] = []
    order = json.dumps({"image": f"{UPSTREAM}/{OPEN}"}).encode()
    signed = {"Authorization": f"Bearer {(first.folder / 'store/operator-token').read_text().strip()}"}
    url = f"http://127.0.0.1:{first.operations_port}/v1/refresh"

    def refused() -> bool:
        urllib.request.urlopen(urllib.request.Request(url, order, signed), timeout=10).close()
        return world.ask(first, path, None).status == 401

    wait_until(refused, "the tokens that were given for it have expired")
    world.registry.daemon.kill()
    world.tokens.status = 503
    wait_until(lambda: world.ask(second, path, None).status in {401, 403, 502}, "the second node has heard")
