"""Several nodes and clients that pull at once; what goes wrong meanwhile is driven by `tests/faults`."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from shoal.digest import Digest
from tests.world.client import Got, get
from tests.world.clients import Mirror, Skopeo
from tests.world.images import random_bytes
from tests.world.nodes import Node, Supernode, wait_until
from tests.world.origin import REPOSITORY, ScriptedOrigin
from tests.world.programs import require
from tests.world.registries import Registry
from tests.world.swarm import UPSTREAM, blob_path, start_nodes

MIB = 1 << 20
SOCKET_BUFFERS = 6 * MIB
"""What a connection of loopback holds at most, sent and not read (`net.ipv4.tcp_rmem`)."""


def test_three_nodes_at_once_take_each_byte_from_the_origin_once(
    registry: Registry, debian: str, supernode: Supernode, tmp_path: Path, stack: ExitStack, pool: ThreadPoolExecutor
) -> None:
    require("skopeo")
    supernode.start(stack)
    nodes = start_nodes(3, registry.url, supernode, tmp_path, stack)
    before = registry.sent()
    clients = [Skopeo(stack) for _ in nodes]
    for client, node in zip(clients, nodes, strict=True):
        client.configure(Mirror(node.url))
    pulls = [pool.submit(client.pull, "library/debian:real") for client in clients]
    assert [pull.result() for pull in pulls] == [debian] * 3
    blobs = clients[0].blobs()
    wait_until(lambda: all(blobs <= node.stored() for node in nodes), "every node has stored the image")
    size = sum((nodes[0].folder / "store/blobs/sha256" / Digest(blob).hex).stat().st_size for blob in blobs)
    assert sum(node.received("origin") for node in nodes) <= 1.02 * size
    # where a stream over a whole blob is cut for others, what lay in the socket's buffers has left the registry too
    assert registry.sent() - before <= 1.02 * size + len(nodes) * SOCKET_BUFFERS


def test_a_tag_is_asked_of_the_origin_once_for_the_cluster_and_once_to_confirm_it(
    origin: ScriptedOrigin, supernode: Supernode, tmp_path: Path, stack: ExitStack
) -> None:
    digest = origin.push(b"a layer")
    supernode.start(stack)
    for node in start_nodes(3, origin.start(stack), supernode, tmp_path, stack):
        got = get(node, f"/v2/{REPOSITORY}/manifests/latest", "HEAD")
        assert (got.status, got.headers["docker-content-digest"]) == (200, digest)
    assert origin.requests["HEAD latest"] <= 2


def test_many_clients_of_one_node_share_one_download(
    origin: ScriptedOrigin, tmp_path: Path, stack: ExitStack, pool: ThreadPoolExecutor
) -> None:
    content = random_bytes(8 * MIB, "shared")
    digest = origin.put(content)
    origin.rate = 8 * MIB
    node = Node(tmp_path / "node", {UPSTREAM: origin.start(stack)})
    node.start(stack)
    together = threading.Barrier(8)

    def pull() -> Got:
        together.wait()
        return get(node, blob_path(digest))

    pulls = [pool.submit(pull) for _ in range(8)]
    assert all(pull.result().body == content for pull in pulls)
    assert origin.sent[digest] == len(content)


def test_the_stream_starts_long_before_the_blob_is_there(
    origin: ScriptedOrigin, tmp_path: Path, stack: ExitStack
) -> None:
    digest = origin.put(random_bytes(8 * MIB, "first byte"))
    origin.rate = 2 * MIB
    node = Node(tmp_path / "node", {UPSTREAM: origin.start(stack)})
    node.start(stack)
    got = get(node, blob_path(digest), Range="bytes=0-0")
    assert (got.status, len(got.body)) == (206, 1)
    assert node.received("origin") < 2 * MIB
