from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.origin import PROGRAM
from tests.world.images import Layout, debian_layers
from tests.world.nodes import Node
from tests.world.programs import require
from tests.world.registries import Registry


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    require(PROGRAM)
    with ExitStack() as stack:
        yield Registry(tmp_path_factory.mktemp("registry")).start(stack)


@pytest.fixture(scope="session")
def debian(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real image of Debian, pushed as `library/debian:real`; its digest."""
    layout = Layout(tmp_path_factory.mktemp("debian") / "layout")
    return layout.push(layout.image(debian_layers()), registry.port, "library/debian:real")


@pytest.fixture
def node(tmp_path: Path, stack: ExitStack, registry: Registry) -> Node:
    """A node without a supernode that stands for docker.io, and is there."""
    node = Node(tmp_path / "node", {"docker.io": registry.url})
    node.start(stack)
    return node
