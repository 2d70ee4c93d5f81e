"""How long clients wait, with real processes: for headers, and between two bytes of a body that could move."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.world.client import get
from tests.world.images import random_bytes
from tests.world.nodes import Node, Supernode
from tests.world.origin import REPOSITORY, ScriptedOrigin
from tests.world.swarm import UPSTREAM, blob_path

MIB = 1 << 20
BOUND = 5.0


@pytest.fixture
def node(
    origin: ScriptedOrigin, supernode: Supernode, tmp_path: Path, request: pytest.FixtureRequest, stack: ExitStack
) -> Node:
    """One node of the scripted origin, with a supernode or without."""
    if request.param == "supernode":
        supernode.start(stack)
    port = supernode.port if request.param == "supernode" else 0
    node = Node(tmp_path / "node", {UPSTREAM: origin.start(stack)}, port)
    node.start(stack)
    return node


def image_of(node: Node, origin: ScriptedOrigin, content: bytes) -> str:
    """Push an image of one layer and read its manifest, so that the layer's size is known; the layer's path."""
    origin.push(content)
    assert get(node, f"/v2/{REPOSITORY}/manifests/latest").status == 200
    return blob_path(next(digest for digest, each in origin.contents.items() if each is content))


@pytest.mark.parametrize("node", ["supernode"], indirect=True)
def test_a_range_near_the_end_of_a_cold_blob_does_not_wait_for_what_is_before_it(
    node: Node, origin: ScriptedOrigin, pool: ThreadPoolExecutor
) -> None:
    content = random_bytes(16 * MIB, "far")
    origin.total_rate = 6 * MIB
    path = image_of(node, origin, content)
    digest = path.rpartition("/")[2]
    for offset in (len(content) - 51, 14 * MIB, 9 * MIB):
        got = get(node, path, Range=f"bytes={offset}-{offset + 50}")
        print(f"range at {offset}: {got.first:.2f} s")
        assert (got.status, got.body) == (206, content[offset : offset + 51])
        assert got.first < 1
    parts = get(node, path, Range="bytes=0-9,11000000-11000009,-10")
    print(f"three ranges: {parts.seconds:.2f} s")
    assert parts.headers["content-type"].startswith("multipart/byteranges; boundary=")
    assert all(part in parts.body for part in (content[:10], content[11_000_000:11_000_010], content[-10:]))
    assert get(node, path).brings(content)
    print(f"egress {origin.sent[digest] / len(content):.3f}")
    assert origin.sent[digest] < 1.06 * len(content)


@pytest.mark.parametrize("node", ["supernode"], indirect=True)
def test_an_origin_that_never_answers_is_an_error_with_its_name(node: Node, origin: ScriptedOrigin) -> None:
    content = random_bytes(MIB, "silent")
    path = image_of(node, origin, content)
    origin.silent[path.rpartition("/")[2]] = 0
    got = get(node, path)
    print(f"{got.status} after {got.seconds:.2f} s: {got.body!r}")
    assert got.status == 502
    assert got.seconds < BOUND
    assert b"docker.io" in got.body
    origin.silent.clear()
    again = get(node, path)
    assert again.brings(content)
    assert again.first < BOUND


def test_an_origin_that_drops_connections_is_an_error_in_time(
    origin: ScriptedOrigin, tmp_path: Path, stack: ExitStack, pool: ThreadPoolExecutor
) -> None:
    """Whatever is asked for, of what is known already and of what nobody has heard of yet."""
    with ExitStack() as before:
        url = origin.start(before)
        node = Node(tmp_path / "node", {UPSTREAM: url})
        node.start(stack)
        path = image_of(node, origin, random_bytes(MIB, "dropped"))
    port = int(url.rpartition(":")[2])
    deaf = stack.enter_context(socket.create_server(("127.0.0.1", port), backlog=0))
    for _ in range(3):  # a queue that is full drops the SYNs of all others
        client = stack.enter_context(socket.socket())
        client.setblocking(False)
        client.connect_ex(deaf.getsockname())
    digest = path.rpartition("/")[2]
    kinds = ["manifests/latest", f"manifests/{digest}", f"blobs/{digest}", "tags/list", f"referrers/{digest}"]
    asked = [(path, "GET"), *((f"/v2/library/{name}/{kind}", "GET") for name, kind in enumerate(kinds))]
    asked += [(f"/v2/library/head-{name}/{kind}", "HEAD") for name, kind in enumerate(kinds)]
    for (_, method), got in zip(asked, pool.map(lambda each: get(node, *each), asked), strict=True):
        print(f"{method} {got.status} after {got.seconds:.2f} s: {got.body!r}")
        assert got.status == 502
        assert got.seconds < BOUND
        assert b"docker.io" in got.body or method == "HEAD"
