"""Several nodes and what they pull at once."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.world.client import Got, get
from tests.world.nodes import Node, Supernode
from tests.world.origin import REPOSITORY

UPSTREAM = "docker.io"


def blob_path(digest: str, repository: str = REPOSITORY) -> str:
    return f"/v2/{repository}/blobs/{digest}"


def start_nodes(count: int, url: str, supernode: Supernode, folder: Path, stack: ExitStack) -> list[Node]:
    """Nodes that have reached the supernode, with an upstream at `url`."""
    nodes = [Node(folder / f"node{place}", {UPSTREAM: url}, supernode.port) for place in range(count)]
    for node in nodes:
        node.start(stack)
    return nodes


def pull_all(pool: ThreadPoolExecutor, nodes: list[Node], digest: str) -> list[Future[Got]]:
    return [pool.submit(get, node, blob_path(digest)) for node in nodes]
