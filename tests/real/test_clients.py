"""Each real client pulls a real image from the real registry through a node."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.real.conftest import Registry
from tests.world.clients import Containerd, Docker, Podman, Skopeo
from tests.world.images import Layout, debian_layers, made_layer, zstd_layer
from tests.world.nodes import Node
from tests.world.programs import require, require_root

MIB = 1 << 20


def went_through(node: Node, registry: Registry, before: int) -> bool:
    """Whether what the origin sent is what the node fetched, each byte once."""
    return 0 < registry.sent() - before <= node.received("origin") * 1.01 + 20_000


def test_docker_pulls(node: Node, registry: Registry, debian: str, tmp_path: Path, stack: ExitStack) -> None:
    require("dockerd", "docker")
    require_root()
    before = registry.sent()
    assert Docker(tmp_path, node, stack).pull("debian:real") == debian
    assert went_through(node, registry, before)


def test_containerd_pulls(node: Node, registry: Registry, debian: str, tmp_path: Path, stack: ExitStack) -> None:
    require("containerd", "ctr")
    require_root()
    before = registry.sent()
    assert Containerd(tmp_path, stack).pull(node, "docker.io", "library/debian:real") == debian
    assert went_through(node, registry, before)


def test_podman_pulls(node: Node, registry: Registry, debian: str, stack: ExitStack) -> None:
    require("podman")
    require_root()
    before = registry.sent()
    assert Podman(stack).pull(node, "docker.io", "library/debian:real") == debian
    assert went_through(node, registry, before)


def test_skopeo_pulls(node: Node, registry: Registry, debian: str, tmp_path: Path) -> None:
    require("skopeo")
    before = registry.sent()
    assert Skopeo(tmp_path).pull(node, "library/debian:real") == debian
    assert went_through(node, registry, before)


def test_a_second_pull_asks_the_origin_for_no_layer(
    node: Node, registry: Registry, debian: str, tmp_path: Path
) -> None:
    require("skopeo")
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    Skopeo(tmp_path / "first").pull(node, "library/debian:real")
    fetched = node.received("origin")
    assert Skopeo(tmp_path / "second").pull(node, "library/debian:real") == debian
    assert node.received("origin") == fetched


def test_an_index_with_two_platforms(node: Node, registry: Registry, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "pushed")
    children = {name: [made_layer(name, 300_000), made_layer("both", 100_000)] for name in ("amd64", "arm64")}
    digest = layout.push(layout.index(children), registry.port, "made/two:latest")
    client = Skopeo(tmp_path)
    assert client.pull(node, "made/two:latest") == digest
    assert client.blobs() <= node.stored()


def test_a_layer_in_zstd(node: Node, registry: Registry, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "pushed")
    digest = layout.push(layout.image([zstd_layer("zstd", 3 * MIB)]), registry.port, "made/zstd:latest")
    client = Skopeo(tmp_path)
    assert client.pull(node, "made/zstd:latest") == digest
    assert client.blobs() <= node.stored()


def test_a_layer_above_256_mib(node: Node, registry: Registry, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "pushed")
    digest = layout.push(layout.image([made_layer("large", 260 * MIB)]), registry.port, "made/large:latest")
    assert Skopeo(tmp_path).pull(node, "made/large:latest") == digest


def test_layers_of_a_real_image_are_real() -> None:
    require("debootstrap")
    assert sum(len(layer.content) for layer in debian_layers()) > 10 * MIB
