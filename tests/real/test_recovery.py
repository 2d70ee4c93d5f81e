"""What a pull costs and how long it takes when the supernode, a seed, an origin or a place of a blob fails."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from shoal.digest import Digest
from tests.world.client import Got, get
from tests.world.images import random_bytes
from tests.world.nodes import Node, Supernode, wait_until
from tests.world.origin import REPOSITORY, ScriptedOrigin

MIB = 1 << 20
UPSTREAM = "docker.io"


def blob_path(digest: str, repository: str = REPOSITORY) -> str:
    return f"/v2/{repository}/blobs/{digest}"


@pytest.fixture
def pool(stack: ExitStack) -> ThreadPoolExecutor:
    return stack.enter_context(ThreadPoolExecutor(16))


def start_nodes(count: int, url: str, supernode: Supernode, folder: Path, stack: ExitStack) -> list[Node]:
    nodes = [Node(folder / f"node{place}", {UPSTREAM: url}, supernode.port) for place in range(count)]
    for node in nodes:
        node.start(stack)
    return nodes


def pull_all(pool: ThreadPoolExecutor, nodes: list[Node], digest: str) -> list[Future[Got]]:
    return [pool.submit(get, node, blob_path(digest)) for node in nodes]


SIZE, RATE = 96 * MIB, 12 * MIB


@pytest.mark.parametrize(("after", "egress"), [(0.0, 1.10), (3.0, 1.15), (8.0, 1.15), (None, 1.3)])
def test_the_supernode_may_be_killed_in_mid_pull_and_come_back(
    after: float | None,
    egress: float,
    origin: ScriptedOrigin,
    supernode: Supernode,
    tmp_path: Path,
    stack: ExitStack,
    pool: ThreadPoolExecutor,
) -> None:
    digest = origin.put(random_bytes(SIZE, after))
    origin.total_rate = RATE
    daemon = supernode.start(stack)
    nodes = start_nodes(4, origin.start(stack), supernode, tmp_path, stack)
    began = time.monotonic()
    pulls = pull_all(pool, nodes, digest)
    wait_until(lambda: origin.sent[digest] > 0.4 * SIZE, "a part has left the origin")
    daemon.kill()
    returning = threading.Timer(after or 0.0, lambda: supernode.start(stack) if after is not None else None)
    returning.start()
    try:
        assert all(Digest.of(pull.result().body) == digest for pull in pulls)
        seconds = time.monotonic() - began
    finally:
        returning.join()
    print(f"back after {after}: egress {origin.sent[digest] / SIZE:.3f}, {seconds:.1f} s")
    assert origin.sent[digest] <= egress * SIZE
    assert seconds <= 1.5 * (SIZE / RATE + 1.0)


def test_a_seed_that_returns_is_used_within_two_seconds(
    origin: ScriptedOrigin, supernode: Supernode, tmp_path: Path, stack: ExitStack, pool: ThreadPoolExecutor
) -> None:
    digest = origin.put(random_bytes(SIZE, "seed"))
    supernode.start(stack)
    url = origin.start(stack)
    seed = Node(tmp_path / "seed", {UPSTREAM: url}, supernode.port)
    daemon = seed.start(stack)
    assert get(seed, blob_path(digest)).status == 200
    wait_until(lambda: digest in seed.stored(), "the seed has it")
    origin.sent.clear()
    origin.total_rate = 3 * MIB
    daemon.kill()
    nodes = start_nodes(2, url, supernode, tmp_path, stack)
    pulls = pull_all(pool, nodes, digest)
    wait_until(lambda: origin.sent[digest] > 6 * MIB, "the origin sends it")
    stack.enter_context(again := seed.daemon()).wait_for(seed.proxy_port)
    assert again is not None
    at = time.monotonic()
    wait_until(lambda: sum(node.received("peer") for node in nodes) > 24 * MIB, "the seed gives it")
    seconds = time.monotonic() - at
    assert all(Digest.of(pull.result().body) == digest for pull in pulls)
    print(f"used after {seconds:.2f} s, egress {origin.sent[digest] / SIZE:.3f}")
    assert seconds <= 2.0
    assert origin.sent[digest] <= 0.5 * SIZE


@pytest.mark.parametrize("with_supernode", [True, False])
def test_an_origin_that_says_nothing_is_a_502_in_time_and_another_one_is_not_disturbed(
    with_supernode: bool,
    origin: ScriptedOrigin,
    supernode: Supernode,
    tmp_path: Path,
    stack: ExitStack,
    pool: ThreadPoolExecutor,
) -> None:
    other = ScriptedOrigin()
    digest, fine = origin.push(random_bytes(2 * MIB, "mute")), other.put(random_bytes(2 * MIB, "fine"))
    layer = next(each for each, content in origin.contents.items() if len(content) == 2 * MIB)
    assert digest
    origin.silent[layer] = 0
    if with_supernode:
        supernode.start(stack)
    upstreams = {UPSTREAM: origin.start(stack), "fine.test": other.start(stack)}
    node = Node(tmp_path / "node", upstreams, supernode.port if with_supernode else 0)
    node.start(stack)
    assert get(node, f"/v2/{REPOSITORY}/manifests/latest").status == 200
    began = time.monotonic()
    waiting = pool.submit(get, node, blob_path(layer))
    assert get(node, blob_path(fine) + "?ns=fine.test").status == 200
    assert time.monotonic() - began < 3.0
    assert waiting.result().status == 502
    print(f"502 after {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < 20.0


@pytest.mark.parametrize(("fault", "status"), [("silent", 502), ("502", 502), ("403", 403)])
def test_a_failing_place_fails_its_own_clients_alone(
    fault: str, status: int, tmp_path: Path, stack: ExitStack, pool: ThreadPoolExecutor
) -> None:
    good, bad = ScriptedOrigin(), ScriptedOrigin()
    layer = random_bytes(4 * MIB, "two places")
    for each in (good, bad):
        each.push(layer)
    digest = Digest.of(layer)
    if fault == "silent":
        bad.silent[digest] = 0
    else:
        bad.status = int(fault)
    node = Node(tmp_path / "node", {"good.test": good.start(stack), "bad.test": bad.start(stack)})
    node.start(stack)
    for name in ("good.test", "bad.test"):
        assert get(node, f"/v2/{REPOSITORY}/manifests/latest?ns={name}").status == 200
    began = time.monotonic()
    first = pool.submit(get, node, blob_path(digest) + "?ns=bad.test")
    second = pool.submit(get, node, blob_path(digest) + "?ns=good.test")
    assert second.result().body == layer
    assert time.monotonic() - began < 5.0
    answer = first.result()
    assert answer.status == status or answer.body == layer
    assert time.monotonic() - began < 20.0


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_manifest_with_a_wrong_size_harms_nobody_else(
    difference: int, origin: ScriptedOrigin, supernode: Supernode, tmp_path: Path, stack: ExitStack
) -> None:
    layer, other = random_bytes(3 * MIB, "layer"), random_bytes(2 * MIB, "other")
    origin.push(layer, other)
    origin.push(layer, other, repository="evil/x", sizes={0: len(layer) + difference})
    supernode.start(stack)
    first, second = start_nodes(2, origin.start(stack), supernode, tmp_path, stack)
    for node, repository in ((first, "evil/x"), (second, REPOSITORY), (first, REPOSITORY)):
        assert get(node, f"/v2/{repository}/manifests/latest").status == 200
        got = get(node, blob_path(Digest.of(other), repository))
        assert got.body == other
        got = get(node, blob_path(Digest.of(layer), repository))
        if repository == "evil/x":
            assert got.status == 502 or got.cut
            assert got.body != layer
        else:
            assert got.body == layer
    for log in (first.log, second.log, (supernode.folder / "log").read_text()):
        assert "refused" not in log


@pytest.mark.parametrize("harm", ["removed", "cut", "changed"])
@pytest.mark.parametrize("restart", [False, True])
def test_a_stored_file_that_is_harmed_is_fetched_again(
    harm: str, restart: bool, origin: ScriptedOrigin, tmp_path: Path, stack: ExitStack
) -> None:
    content = random_bytes(3 * MIB, harm)
    digest = origin.put(content)
    node = Node(tmp_path / "node", {UPSTREAM: origin.start(stack)})
    daemon = node.start(stack)
    assert get(node, blob_path(digest)).body == content
    wait_until(lambda: digest in node.stored(), "it is stored")
    path = node.folder / "store/blobs/sha256" / Digest(digest).hex
    if restart:
        daemon.kill()
    match harm:
        case "removed":
            path.unlink()
        case "cut":
            os.truncate(path, 1000)
        case "changed":
            with path.open("r+b") as file:
                file.seek(MIB)
                file.write(b"evil")
    if restart:
        stack.enter_context(node.daemon()).wait_for(node.proxy_port)
    assert get(node, blob_path(digest)).body == content
    assert origin.sent[digest] == 2 * len(content)


@pytest.mark.parametrize("seed", range(6))
def test_nobody_gets_wrong_bytes_by_a_clean_end(
    seed: int, origin: ScriptedOrigin, tmp_path: Path, stack: ExitStack, pool: ThreadPoolExecutor
) -> None:
    """The origin breaks off inside a piece, and that piece comes again with other bytes."""
    content = random_bytes(2 * MIB, seed)
    digest = origin.put(content)
    wrong = bytes(len(content))
    origin.lies = [(100_000 + 37_000 * seed, wrong), (300_000 + 50_000 * seed, content)]
    origin.rate = 4 * MIB
    node = Node(tmp_path / "node", {UPSTREAM: origin.start(stack)})
    node.start(stack)
    for got in [pool.submit(get, node, blob_path(digest)) for _ in range(3)]:
        answer = got.result()
        assert answer.cut or answer.status != 200 or hashlib.sha256(answer.body).hexdigest() == Digest(digest).hex
    answer = get(node, blob_path(digest))
    if answer.cut:  # it had joined the download that was wrong from its beginning
        answer = get(node, blob_path(digest))
    assert answer.body == content
