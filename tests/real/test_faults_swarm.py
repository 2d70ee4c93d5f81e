"""Neighbours that come back, claim what they do not give, or say something else of the same layer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.world.client import get
from tests.world.images import random_bytes
from tests.world.liar import Liar
from tests.world.nodes import Node, Supernode, wait_until
from tests.world.origin import ScriptedOrigin
from tests.world.swarm import blob_path, pull_all, start_nodes

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
def test_a_seed_that_returns_gives_at_once(
    nodes: list[Node],
    origin: ScriptedOrigin,
    supernode: Supernode,
    tmp_path: Path,
    stack: ExitStack,
    pool: ThreadPoolExecutor,
) -> None:
    content = random_bytes(200 * MIB, "seed")
    digest = origin.put(content)
    seed = Node(tmp_path / "seed", nodes[0].upstreams, supernode.port)
    daemon = seed.start(stack)
    assert get(seed, blob_path(digest)).brings(content)
    wait_until(lambda: digest in seed.stored(), "the seed has the blob")
    origin.rate, before = MIB, origin.sent[digest]
    began = time.monotonic()
    pulls = pull_all(pool, nodes, digest)
    wait_until(lambda: sum(node.received("peer") for node in nodes) > 30 * MIB, "the seed gives")
    daemon.kill()
    killed = time.monotonic()
    wait_until(lambda: time.monotonic() > killed + 3, "the seed was away for 3 s")
    assert not any(pull.done() for pull in pulls)
    seed.start(stack)
    ready = time.monotonic()
    wait_until(lambda: seed.counted('shoal_bytes_total{direction="out",source="peer"}') > 0, "the seed gives again")
    gave = time.monotonic() - ready
    got = [pull.result() for pull in pulls]
    egress = (origin.sent[digest] - before) / len(content)
    print(
        f"killed after {killed - began:.1f} s, ready {ready - killed:.1f} s later, gave after {gave:.2f} s more, "
        f"pulls took {[round(each.seconds, 1) for each in got]} s, "
        f"gaps {[round(each.longest_gap, 1) for each in got]}, "
        f"egress {egress:.2f}"
    )
    assert gave < 2
    assert all(each.brings(content) for each in got)


@pytest.mark.parametrize("nodes", [4], indirect=True)
@pytest.mark.parametrize(
    ("says_busy", "tells_digests"), [(False, True), (True, True), (False, False)], ids=["silent", "busy", "untold"]
)
def test_a_peer_that_claims_everything_and_gives_nothing_makes_nobody_wait(
    nodes: list[Node],
    origin: ScriptedOrigin,
    supernode: Supernode,
    stack: ExitStack,
    pool: ThreadPoolExecutor,
    says_busy: bool,
    tells_digests: bool,
) -> None:
    content = random_bytes(20 * MIB, "claimed")
    digest = origin.put(content)
    liar = Liar(content, says_busy=says_busy, tells_digests=tells_digests)
    liar.start(supernode.port, stack)
    pulls = pull_all(pool, nodes, digest)
    got = [pull.result() for pull in pulls]
    egress = origin.sent[digest] / len(content)
    print(
        f"{liar.asked} requests to the liar, gaps {[round(each.longest_gap, 1) for each in got]} s, "
        f"first {[round(each.first, 1) for each in got]} s, "
        f"in all {[round(each.seconds, 1) for each in got]} s, egress {egress:.2f}"
    )
    assert all(each.brings(content) for each in got)
    assert max(each.longest_gap for each in got) <= 5
    assert egress <= 1.5


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
