"""Sizes of layers that manifests, or an origin's answers to HEAD, tell wrongly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.world.client import get
from tests.world.images import random_bytes
from tests.world.nodes import Node, Supernode
from tests.world.origin import ScriptedOrigin
from tests.world.swarm import blob_path, start_nodes

MIB = 1 << 20
OTHER = b"a layer of another image"


@pytest.fixture
def nodes(
    origin: ScriptedOrigin, supernode: Supernode, tmp_path: Path, request: pytest.FixtureRequest, stack: ExitStack
) -> Iterator[list[Node]]:
    """So many as the test's parameter says; after the fault they are ready and serve another image."""
    other = origin.put(OTHER)
    url = origin.start(stack)
    supernode.start(stack)
    nodes = start_nodes(request.param, url, supernode, tmp_path, stack)
    yield nodes
    for node in nodes:
        assert node.is_ready
        assert get(node, blob_path(other)).brings(OTHER)
        assert "Traceback" not in node.log
    assert "Traceback" not in (supernode.folder / "log").read_text()


@pytest.mark.parametrize("nodes", [2], indirect=True)
@pytest.mark.parametrize("off", [-1, 1])
@pytest.mark.parametrize("wrong_first", [False, True])
def test_a_wrong_size_is_an_error_for_who_believes_it(
    nodes: list[Node], origin: ScriptedOrigin, supernode: Supernode, off: int, wrong_first: bool
) -> None:
    """A manifest of evil/x names a layer of good/x with a wrong size."""
    layer, second, third, fourth = (random_bytes(size * MIB, size) for size in (3, 1, 2, 4))
    origin.push(layer, second, repository="good/x")
    origin.push(layer, third, repository="evil/x", sizes={0: len(layer) + off})
    origin.push(fourth, repository="other/x")
    digests = {content: digest for digest, content in origin.contents.items()}
    believer, right = nodes

    def pull(node: Node, repository: str, *layers: bytes) -> None:
        assert get(node, f"/v2/{repository}/manifests/latest").status == 200
        for content in layers:
            assert get(node, blob_path(digests[content], repository)).brings(content)

    def believe() -> None:
        assert get(believer, "/v2/evil/x/manifests/latest").status == 200
        got = get(believer, blob_path(digests[layer], "evil/x"))
        print(f"wrong size {off:+d}: {got.status}, {len(got.body)} bytes, cut {got.cut}, {got.seconds:.1f} s")
        assert got.status >= 400
        assert got.seconds < 20

    if wrong_first:
        believe()
        pull(right, "good/x", layer, second)
    else:
        pull(right, "good/x", layer, second)
        believe()
    pull(believer, "evil/x", third)
    pull(believer, "good/x", layer, second)
    pull(right, "evil/x", third)
    for node in nodes:
        pull(node, "other/x", fourth)
        assert "supernode.refused" not in node.log
        assert "supernode.lost" not in node.log
        assert "invalid" not in node.log
    assert "peer.refused" not in (supernode.folder / "log").read_text()


@pytest.mark.parametrize("nodes", [2], indirect=True)
def test_a_head_that_tells_no_length_is_asked_otherwise(nodes: list[Node], origin: ScriptedOrigin) -> None:
    content = random_bytes(MIB, "head")
    digest = origin.put(content)
    origin.empty_heads = 1
    for node in nodes:
        assert get(node, blob_path(digest)).brings(content)
    assert origin.empty_heads == 0
