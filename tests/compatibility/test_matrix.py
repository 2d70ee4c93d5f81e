"""Each real client in each situation; `docs/compatibility.md` has a row for each client and a column for each test."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.compatibility.conftest import Debian, Origins, lone_node
from tests.world.client import get
from tests.world.clients import Client, Mirror
from tests.world.front import Fault, Front
from tests.world.images import Layout, made_layer
from tests.world.nodes import Node, Supernode, wait_until
from tests.world.programs import ProgramFailed
from tests.world.registries import USERS

MIB = 1 << 20
MOST_SECONDS = 20.0
"""For a pull that goes on to the origin; docker tries a failing blob five times."""


@pytest.fixture(autouse=True)
def forgets(client: Client) -> Iterator[None]:
    """No test finds what another pulled."""
    yield
    client.forget()


def named(client: Client, situation: str) -> str:
    """The name of an image that is this cell's own."""
    return re.sub("[^a-z0-9]+", "-", f"{client.name}-{situation}")


def image(name: str) -> str:
    return f"library/{name}:latest"


def test_cold(client: Client, node: Node, origins: Origins, debian: Debian) -> None:
    """A real image of Debian, each byte of which leaves the origin once."""
    client.configure(Mirror(node.url))
    before, sent = len(origins.front.seen), origins.front.sent["blobs"]
    assert client.pull("library/debian:latest") == debian.digest
    asked = {each.reference for each in origins.front.seen[before:] if each.kind == "blobs" and each.method == "GET"}
    assert asked
    assert origins.front.sent["blobs"] - sent == sum(debian.sizes[blob] for blob in asked)


def test_warm(client: Client, node: Node, origins: Origins) -> None:
    """Of a second pull the origin hears nothing but what its tag stands for."""
    name = named(client, "warm")
    pushed = origins.image(name)
    client.configure(Mirror(node.url))
    assert client.pull(image(name)) == pushed.digest
    client.forget()
    before = len(origins.front.seen)
    assert client.pull(image(name)) == pushed.digest
    again = origins.front.seen[before:]
    assert not [each for each in again if each.kind == "blobs" or each.reference.startswith("sha256:")]


@pytest.mark.parametrize("login", ["token", "basic"])
def test_private(client: Client, login: str, origins: Origins, tmp_path: Path, stack: ExitStack) -> None:
    """The client's own name and password decide, also of what the node has."""
    front = origins.token_front if login == "token" else origins.basic_front
    node = lone_node(tmp_path / "node", front.url)
    node.start(stack)
    name = named(client, f"private-{login}")
    pushed = origins.image(name)
    wrong = [("alice", "wrong"), None]
    if login == "token":
        wrong.append(("bob", USERS["bob"]))  # who has an account, and no right to this repository

    def refused() -> None:
        """By the mirror, and then by the origin."""
        for other in wrong:
            client.configure(Mirror(node.url, origin=front.url, login=other, names_registry=False))
            with pytest.raises(ProgramFailed):
                client.pull(image(name))

    allowed = Mirror(node.url, login=("alice", USERS["alice"]), names_registry=False)
    refused()
    client.configure(allowed)
    assert client.pull(image(name)) == pushed.digest
    assert pushed.digest in node.stored()
    client.forget()
    refused()
    client.configure(allowed)
    before = front.sent["blobs"]
    assert client.pull(image(name)) == pushed.digest
    assert front.sent["blobs"] == before


def test_index(client: Client, node: Node, origins: Origins, tmp_path: Path) -> None:
    """An image for two platforms."""
    name = named(client, "index")
    layout = Layout(tmp_path / "layout")
    children = {each: [made_layer(f"{name}-{each}", 300_000)] for each in ("amd64", "arm64")}
    digest = origins.push(layout, layout.index(children), name)
    client.configure(Mirror(node.url))
    assert client.pull(image(name)) == digest
    assert digest in node.stored()


def test_cut(client: Client, node: Node, origins: Origins) -> None:
    """The origin cuts each blob once: what the client gets is whole."""
    name = named(client, "cut")
    pushed = origins.image(name)
    origins.front.faults[f"library/{name}/"] = Fault(cut=200_000, times=1, kinds=("blobs",))
    client.configure(Mirror(node.url))
    assert client.pull(image(name)) == pushed.digest


def test_upstream_fails_warm(client: Client, node: Node, origins: Origins) -> None:
    """What the node has it gives, whatever the origin says."""
    name = named(client, "fails-warm")
    pushed = origins.image(name)
    client.configure(Mirror(node.url))
    assert client.pull(image(name)) == pushed.digest
    client.forget()
    origins.front.faults[f"library/{name}/"] = Fault(status=503)
    assert client.pull(image(name)) == pushed.digest


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
def test_upstream_fails_cold(client: Client, kind: str, node: Node, origins: Origins) -> None:
    """The client goes on to the origin by itself, or where it cannot, fails and gets the image later."""
    name = named(client, f"fails-{kind}")
    pushed = origins.image(name)
    origins.front.faults[f"library/{name}/"] = Fault(status=503, kinds=(kind,))
    client.configure(Mirror(node.url, origin=origins.storage.url))
    began = time.monotonic()
    if kind in client.goes_on_for:
        assert client.pull(image(name)) == pushed.digest
        assert time.monotonic() - began < MOST_SECONDS
    else:
        with pytest.raises(ProgramFailed):
            client.pull(image(name))
    del origins.front.faults[f"library/{name}/"]
    client.forget()
    assert client.pull(image(name)) == pushed.digest


def test_swarm_gone(
    client: Client, origins: Origins, tmp_path: Path, stack: ExitStack, pool: ThreadPoolExecutor
) -> None:
    """Supernode and neighbour are killed in mid-pull."""
    name = named(client, "gone")
    pushed = origins.image(name, [4 * MIB, 4 * MIB])
    front = Front(origins.storage.url, faults={"library/": Fault(rate=3 * MIB, kinds=("blobs",))}).start(stack)
    supernode = Supernode(tmp_path / "supernode")
    daemons = [supernode.start(stack)]
    node, neighbour = (Node(tmp_path / each, {"docker.io": front.url}, supernode.port) for each in ("a", "b"))
    node.start(stack)
    daemons.append(neighbour.start(stack))
    client.configure(Mirror(node.url))
    pulling = pool.submit(client.pull, image(name))
    largest = pushed.blobs[-1][0]
    pool.submit(get_anyhow, neighbour, f"/v2/library/{name}/blobs/{largest}")
    wait_until(lambda: node.received("origin") + node.received("peer") > 2 * MIB, "a part of the image is there")
    for daemon in daemons:
        daemon.kill()
    assert pulling.result() == pushed.digest


def get_anyhow(node: Node, path: str) -> None:
    """The body, or less of it where the node ends first."""
    try:
        get(node, path)
    except OSError:
        return
