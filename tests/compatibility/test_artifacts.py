"""Artifacts that belong to an image, at a registry that lists referrers and at one where a tag stands for the list."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from shoal.digest import Digest
from tests.compatibility.conftest import Origins, lone_node
from tests.compatibility.test_matrix import image, named
from tests.world.artifacts import push_artifact, push_fallback_tag
from tests.world.client import get
from tests.world.clients import Client, Mirror
from tests.world.images import Layout, made_layer
from tests.world.nodes import Node
from tests.world.registries import Olareg
from tests.world.tools import require_tool


@dataclass(frozen=True)
class Signed:
    """An image and what belongs to it."""

    digest: str
    referrers: list[str]
    """Digests of artifacts' manifests; the first is tagged `signature`."""


def push_signed(url: str, name: str, folder: Path) -> Signed:
    """Push an image `library/NAME:latest` and two artifacts of it."""
    layout = Layout(folder / "layout")
    subject = layout.image([made_layer(name, 300_000)])
    digest = layout.push(subject, int(url.rpartition(":")[2]), f"library/{name}:latest")
    manifests = [
        push_artifact(url, f"library/{name}", tag, f"{tag} of {name}".encode(), subject)
        for tag in ("signature", "sbom")
    ]
    return Signed(digest, [Digest.of(each) for each in manifests])


@pytest.fixture(scope="session")
def olareg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Olareg]:
    program = require_tool("olareg")
    with ExitStack() as stack:
        yield Olareg(tmp_path_factory.mktemp("olareg"), program).start(stack)


@pytest.fixture
def artifacts(client: Client) -> None:
    """Skips what the client cannot do."""
    if not client.takes_artifacts:
        pytest.skip("unpacks what it pulls, and an artifact is no image")


@pytest.fixture
def node(artifacts: None, olareg: Olareg, tmp_path: Path, stack: ExitStack) -> Node:
    """A node before the registry that lists referrers."""
    node = lone_node(tmp_path / "node", olareg.url)
    node.start(stack)
    return node


def test_artifact(client: Client, node: Node, olareg: Olareg, tmp_path: Path) -> None:
    """The client lists an image's referrers, where it can, and pulls one."""
    name = named(client, "artifact")
    signed = push_signed(olareg.url, name, tmp_path)
    client.configure(Mirror(node.url))
    if client.lists_referrers:
        assert sorted(client.referrers(image(name), signed.digest)) == sorted(signed.referrers)
    assert client.pull(f"library/{name}:signature") == signed.referrers[0]
    client.forget()


def test_referrers_by_tag(client: Client, origins: Origins, tmp_path: Path, stack: ExitStack) -> None:
    """The same list at a registry that knows the tag alone."""
    if not client.lists_referrers:
        pytest.skip("has no command that lists referrers")
    node = lone_node(tmp_path / "node", origins.front.url)
    node.start(stack)
    name = named(client, "by-tag")
    signed = push_signed(origins.storage.url, name, tmp_path)
    manifests = [get(node, f"/v2/library/{name}/manifests/{digest}").body for digest in signed.referrers]
    push_fallback_tag(origins.storage.url, f"library/{name}", signed.digest, manifests)
    client.configure(Mirror(node.url))
    assert sorted(client.referrers(image(name), signed.digest)) == sorted(signed.referrers)
