"""Each kind of origin, pulled from by a client through a node; `docs/compatibility.md` has a row for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.images import write_image
from bench.origin import PROGRAM
from tests.compatibility.conftest import ALL, Origins
from tests.world.certificates import Authority
from tests.world.clients import Mirror, Skopeo
from tests.world.front import Front
from tests.world.nginx import start_nginx
from tests.world.nodes import Node
from tests.world.programs import ProgramFailed, run
from tests.world.registries import USERS, Olareg, Registry
from tests.world.tokens import TokenServer
from tests.world.tools import TOOLS, require_tool

ALICE: dict[str, object] = {"username": "alice", "password": USERS["alice"], "share_credentials": True}
NAME = "of-each-origin"


@dataclass(frozen=True)
class Place:
    """Where an origin is started."""

    origins: Origins
    folder: Path
    stack: ExitStack

    def over_storage(
        self, *, htpasswd: bool = False, tokens: TokenServer | None = None, program: str = PROGRAM
    ) -> Registry:
        """A registry with the images of all."""
        storage = self.origins.storage.root
        registry = Registry(self.folder / "registry", storage, htpasswd=htpasswd, tokens=tokens, program=program)
        return registry.start(self.stack)


Upstream = dict[str, object]


def docker_registry(place: Place) -> Upstream:
    return {"url": place.over_storage().url}


def with_passwords(place: Place) -> Upstream:
    return {"url": place.over_storage(htpasswd=True).url, **ALICE}


def with_tokens(place: Place) -> Upstream:
    return {"url": place.over_storage(tokens=place.origins.tokens).url, **ALICE}


def behind_nginx(place: Place) -> Upstream:
    """TLS of a private authority, which the node is told; the same for the token server."""
    authority = Authority(place.folder / "authority")
    certificate = authority.issue("127.0.0.1")
    tokens = TokenServer(authority, USERS, {"alice": ["library/*"]})
    tokens.start(place.stack)
    tokens.address = start_nginx(place.folder / "nginx-tokens", tokens.address, certificate, place.stack)
    registry = place.over_storage(tokens=tokens)
    url = start_nginx(place.folder / "nginx", registry.url, certificate, place.stack)
    return {"url": url, "ca_file": str(authority.file), **ALICE}


def with_redirects(place: Place) -> Upstream:
    """Blobs lie behind signed URLs of another address, which refuses a request that brings Authorization too."""
    registry = place.over_storage(tokens=place.origins.tokens)
    return {"url": Front(registry.url, redirects=True).start(place.stack).url, **ALICE}


def olareg(place: Place) -> Upstream:
    registry = Olareg(place.folder / "olareg", require_tool("olareg")).start(place.stack)
    source, target = (
        f"docker://127.0.0.1:{port}/library/{NAME}" for port in (place.origins.storage.port, registry.port)
    )
    options = ("--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests")
    run("skopeo", "--insecure-policy", "copy", *options, source, target)
    return {"url": registry.url}


def distribution_3(place: Place) -> Upstream:
    return {"url": place.over_storage(program=str(require_tool("registry"))).url}


ORIGINS: dict[str, Callable[[Place], Upstream]] = {
    "docker-registry 2.8": docker_registry,
    "docker-registry 2.8 with passwords": with_passwords,
    "docker-registry 2.8 with tokens": with_tokens,
    "docker-registry 2.8 with tokens behind nginx with TLS of a private authority": behind_nginx,
    "docker-registry 2.8 with tokens and redirects to signed URLs": with_redirects,
    f"olareg {TOOLS['olareg'].version}": olareg,
}
BUILT_ORIGINS = {f"distribution {TOOLS['registry'].version}": distribution_3} if ALL else {}


def pull(upstream: Upstream, image: str, folder: Path, stack: ExitStack) -> str:
    """What a client gets through a node before `upstream`."""
    settings = {"SHOAL_PROXY__UPSTREAMS": json.dumps({"docker.io": upstream})}
    node = Node(folder / "node", {"docker.io": ""}, settings=settings)
    node.start(stack)
    client = Skopeo(stack)
    client.configure(Mirror(node.url))
    return client.pull(image)


@pytest.fixture(scope="session")
def digest(origins: Origins) -> str:
    """Of an image that all registries over the storage have."""
    return origins.image(NAME).digest


@pytest.mark.parametrize("name", [*ORIGINS, *BUILT_ORIGINS])
def test_an_origin_is_pulled_from(name: str, digest: str, origins: Origins, tmp_path: Path, stack: ExitStack) -> None:
    upstream = (ORIGINS | BUILT_ORIGINS)[name](Place(origins, tmp_path, stack))
    assert pull(upstream, f"library/{NAME}:latest", tmp_path, stack) == digest


def test_a_revoked_token_is_replaced(digest: str, origins: Origins, tmp_path: Path, stack: ExitStack) -> None:
    """Some registries answer 400 without a challenge to a token that they took before."""
    front = Front(origins.token_front.target).start(stack)
    settings = {
        "SHOAL_PROXY__UPSTREAMS": json.dumps({"docker.io": {"url": front.url, **ALICE}}),
        "SHOAL_PROXY__TAG_FRESHNESS": "0s",
    }
    node = Node(tmp_path / "node", {"docker.io": front.url}, settings=settings)
    node.start(stack)
    client = Skopeo(stack)
    client.configure(Mirror(node.url))
    assert client.pull(f"library/{NAME}:latest") == digest
    front.refused = {each.headers["authorization"]: 400 for each in front.seen if "authorization" in each.headers}
    assert front.refused
    other = write_image(origins.storage.root, f"library/{NAME}", [200_000], tag="later")
    client.forget()
    assert client.pull(f"library/{NAME}:later") == other.digest


def test_who_asks_for_tokens_of_the_whole_path_is_told_the_right_scope(
    digest: str, origins: Origins, tmp_path: Path, stack: ExitStack
) -> None:
    """podman and skopeo want tokens for `docker.io/library/NAME` where the path says that; the registry's own challenge
    brings them to the right ones."""
    front = Front(origins.token_front.target).start(stack)
    node = Node(tmp_path / "node", {"docker.io": front.url})
    node.start(stack)
    client = Skopeo(stack)
    client.configure(Mirror(node.url, origin=front.url, login=("alice", USERS["alice"])))
    assert client.pull(f"library/{NAME}:latest") == digest
    assert digest in node.stored()


@pytest.mark.parametrize("login", [None, ("alice", "wrong"), ("bob", USERS["bob"]), ("alice", USERS["alice"])])
def test_the_registry_of_tokens_judges_without_a_node_as_it_should(
    login: tuple[str, str] | None, digest: str, origins: Origins
) -> None:
    """What tests of private images build upon: alice may read, bob may not."""
    credentials = ("--creds", ":".join(login)) if login else ("--no-creds",)
    image = f"docker://127.0.0.1:{origins.token_front.port}/library/{NAME}:latest"
    inspect = ("skopeo", "inspect", "--tls-verify=false", *credentials, image)
    if login == ("alice", USERS["alice"]):
        assert digest in run(*inspect)
    else:
        with pytest.raises(ProgramFailed):
            run(*inspect)
