"""A supernode that dies in mid-pull, stored files that are harmed, and an origin that says two things of one piece."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from shoal.digest import Digest
from tests.world.client import get
from tests.world.images import random_bytes
from tests.world.nodes import Node, Supernode, wait_until
from tests.world.origin import ScriptedOrigin
from tests.world.swarm import UPSTREAM, blob_path, pull_all, start_nodes

MIB = 1 << 20


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
