"""What a client gets of an origin that is silent or refuses, with another place for the same blob and without."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.world.client import Got, get
from tests.world.images import random_bytes
from tests.world.nodes import Node, Supernode, wait_until
from tests.world.origin import REPOSITORY, ScriptedOrigin

MIB = 1 << 20
CONTENT = random_bytes(8 * MIB, "places")
OTHER = random_bytes(MIB, "other")
SECONDS = 25


def path(digest: str, place: str = "good.test", kind: str = "blobs") -> str:
    return f"/v2/{place}/{REPOSITORY}/{kind}/{digest}"


def assert_well(node: Node) -> None:
    assert node.is_ready
    assert "Traceback" not in node.log


def goes_silent(bad: ScriptedOrigin, digest: str) -> None:
    bad.silent[digest] = 0


def goes_silent_later(bad: ScriptedOrigin, digest: str) -> None:
    bad.silent[digest] = MIB


def fails(bad: ScriptedOrigin, digest: str) -> None:
    bad.status = 502


def refuses(bad: ScriptedOrigin, digest: str) -> None:
    bad.status = 403


def truncates(bad: ScriptedOrigin, digest: str) -> None:
    bad.truncate = MIB


Fault = Callable[[ScriptedOrigin, str], None]


@pytest.mark.parametrize("with_supernode", [False, True])
@pytest.mark.parametrize("fault", [goes_silent, goes_silent_later, fails, refuses, truncates])
def test_a_bad_place_harms_no_client_of_a_good_one(
    fault: Fault, with_supernode: bool, supernode: Supernode, tmp_path: Path, stack: ExitStack, pool: ThreadPoolExecutor
) -> None:
    good, bad = ScriptedOrigin(), ScriptedOrigin()
    for origin in (good, bad):
        origin.push(CONTENT, OTHER)
        digest, other = list(origin.contents)[:2]
    fault(bad, digest)
    if with_supernode:
        supernode.start(stack)
    upstreams = {"good.test": good.start(stack), "bad.test": bad.start(stack)}
    node = Node(tmp_path / "node", upstreams, supernode.port if with_supernode else 0)
    node.start(stack)

    def pull(place: str) -> Got:
        """As clients do: the manifest tells the size, so that nobody asks for it by HEAD."""
        assert get(node, path("latest", place, "manifests")).status == 200
        return get(node, path(digest, place))

    from_bad = pool.submit(pull, "bad.test")
    wait_until(lambda: bad.requests[f"GET {digest}"] > 0, "the bad place is asked")
    from_good = pool.submit(pull, "good.test")
    assert get(node, path(other)).brings(OTHER)
    assert_well(node)
    got_bad, got_good = from_bad.result(), from_good.result()
    print(
        f"{fault.__name__}, supernode {with_supernode}: good {got_good.status} {len(got_good.body)} bytes, first "
        f"{got_good.first:.1f} s, gap {got_good.longest_gap:.1f} s, {got_good.seconds:.1f} s; bad {got_bad.status} "
        f"{len(got_bad.body)} bytes, cut {got_bad.cut}, {got_bad.seconds:.1f} s"
    )
    assert got_good.brings(CONTENT)
    assert got_good.first < 5
    assert got_bad.seconds < SECONDS
    if not got_bad.brings(CONTENT):
        assert got_bad.cut or got_bad.status == (403 if fault is refuses else 502)
    assert_well(node)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("silent_from", [0, 3 * MIB])
def test_a_silent_origin_is_an_error_in_time(
    count: int,
    silent_from: int,
    origin: ScriptedOrigin,
    supernode: Supernode,
    tmp_path: Path,
    stack: ExitStack,
    pool: ThreadPoolExecutor,
) -> None:
    digest, other = origin.put(CONTENT), origin.put(OTHER)
    origin.silent[digest] = silent_from
    url = origin.start(stack)
    supernode.start(stack)
    nodes = [Node(tmp_path / f"node{n}", {"good.test": url}, supernode.port) for n in range(count)]
    for node in nodes:
        node.start(stack)
    pulls = [pool.submit(get, node, path(digest)) for node in nodes]
    wait_until(lambda: origin.requests[f"GET {digest}"] > 0, "the origin is asked")
    for node in nodes:
        got = get(node, path(other))
        assert got.brings(OTHER)
        assert got.seconds < 5
        assert_well(node)
    for each in [pull.result() for pull in pulls]:
        print(f"{count} nodes, silent from {silent_from}: {each.status}, cut {each.cut}, {each.seconds:.1f} s")
        assert each.seconds < SECONDS
        assert each.cut if each.status == 200 else each.status == 502
        assert silent_from or each.status == 502
        if each.status == 200:
            assert CONTENT.startswith(each.body)
    for node in nodes:
        assert_well(node)
    origin.silent.clear()
    assert all(get(node, path(digest)).brings(CONTENT) for node in nodes)


@pytest.mark.parametrize("with_supernode", [False, True])
def test_an_image_of_more_layers_than_the_node_has_descriptors(
    with_supernode: bool,
    origin: ScriptedOrigin,
    supernode: Supernode,
    tmp_path: Path,
    stack: ExitStack,
    pool: ThreadPoolExecutor,
) -> None:
    layers = [random_bytes(70_000 + n, ("layer", n)) for n in range(400)]
    origin.push(*layers)
    digests = list(origin.contents)[: len(layers)]
    url = origin.start(stack)
    if with_supernode:
        supernode.start(stack)
    node = Node(tmp_path / "node", {"good.test": url}, supernode.port if with_supernode else 0, descriptors=256)
    daemon = node.start(stack)
    descriptors = Path(f"/proc/{daemon.process.pid}/fd")
    idle = len(list(descriptors.iterdir()))
    assert get(node, path("latest", kind="manifests")).status == 200
    for got, layer in zip(pool.map(lambda digest: get(node, path(digest)), digests), layers, strict=True):
        assert got.brings(layer)
    assert all(origin.requests[f"GET {digest}"] == 1 for digest in digests)
    assert_well(node)
    wait_until(lambda: set(digests) <= node.stored(), "all layers are stored")
    wait_until(lambda: len(list(descriptors.iterdir())) < idle + 32, "what was open is closed")
