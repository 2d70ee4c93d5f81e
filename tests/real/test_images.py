"""Images of unusual shapes, pulled by a real client from the real registry; `tests/compatibility` has usual ones."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.world.clients import Mirror, Skopeo
from tests.world.images import Layout, debian_layers, made_layer, zstd_layer
from tests.world.nodes import Node
from tests.world.programs import require
from tests.world.registries import Registry

MIB = 1 << 20


@pytest.fixture
def client(node: Node, stack: ExitStack) -> Skopeo:
    """A client whose mirror is the node."""
    client = Skopeo(stack)
    client.configure(Mirror(node.url))
    return client


def test_a_layer_in_zstd(client: Skopeo, node: Node, registry: Registry, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "pushed")
    digest = layout.push(layout.image([zstd_layer("zstd", 3 * MIB)]), registry.port, "made/zstd:latest")
    assert client.pull("made/zstd:latest") == digest
    assert client.blobs() <= node.stored()


def test_a_layer_above_256_mib(client: Skopeo, registry: Registry, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "pushed")
    digest = layout.push(layout.image([made_layer("large", 260 * MIB)]), registry.port, "made/large:latest")
    assert client.pull("made/large:latest") == digest


def test_layers_of_a_real_image_are_real() -> None:
    require("debootstrap")
    assert sum(len(layer.content) for layer in debian_layers()) > 10 * MIB
