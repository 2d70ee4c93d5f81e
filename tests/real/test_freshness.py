"""Tags while the origin is well, changes its mind, is gone or says nothing: real nodes before a scripted origin."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.world.client import Got, get
from tests.world.images import random_bytes
from tests.world.nodes import Node, Supernode
from tests.world.origin import REPOSITORY, ScriptedOrigin
from tests.world.swarm import UPSTREAM, blob_path, start_nodes

TAGGED = f"/v2/{REPOSITORY}/manifests/latest"
BRIEF = {"SHOAL_PROXY__TAG_FRESHNESS": "0s"}


def pull(node: Node) -> list[Got]:
    """An image by its tag, as containerd does; every answer."""
    head = get(node, TAGGED, "HEAD")
    manifest = get(node, f"/v2/{REPOSITORY}/manifests/{head.headers['docker-content-digest']}")
    content = json.loads(manifest.body)
    blobs = [get(node, blob_path(entry["digest"])) for entry in (content["config"], *content["layers"])]
    return [head, manifest, *blobs]


def order(node: Node, *arguments: str) -> dict[str, object]:
    """A command for a daemon that runs."""
    environment = {
        "SHOAL_PEER__OPERATIONS__PORT": str(node.operations_port),
        "SHOAL_PEER__STORE": str(node.folder / "store"),
    }
    command = [sys.executable, "-m", "shoal.cli", *arguments, "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30, env=environment)
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("fault", ["gone", "hanging", "at its limit", "failing"])
@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
def test_what_is_cached_is_given_while_the_origin_cannot_be_asked(
    fault: str, restarted: bool, origin: ScriptedOrigin, tmp_path: Path, stack: ExitStack
) -> None:
    origin.push(random_bytes(100_000, "layer"))
    inner = stack.enter_context(ExitStack())
    node = Node(tmp_path, {UPSTREAM: origin.start(inner)}, settings=BRIEF)
    running = stack.enter_context(ExitStack())
    node.start(running)
    assert {got.status for got in pull(node)} == {200}
    match fault:
        case "gone":
            inner.close()
        case "hanging":
            origin.hangs = True
        case "at its limit":
            origin.status_of_all = 429
        case _:
            origin.status_of_all = 503
    if restarted:
        running.close()
        node.start(stack)
    for _ in range(2):
        answers = pull(node)
        assert {got.status for got in answers} == {200}
        assert max(got.seconds for got in answers) < 3
        assert answers[0].headers["warning"].startswith("299 - ")
        assert "warning" not in answers[2].headers
    asked = sum(origin.requests.values())
    pull(node)
    assert sum(origin.requests.values()) == asked  # it is left alone for a while
    if fault != "gone":
        assert get(node, f"/v2/{REPOSITORY}/manifests/other").status == 502
        assert get(node, f"/v2/{REPOSITORY}/tags/list").seconds < 5


def test_a_refresh_and_a_removal_act_at_once_on_the_cluster(
    origin: ScriptedOrigin, supernode: Supernode, tmp_path: Path, stack: ExitStack
) -> None:
    old = origin.push(random_bytes(100_000, "old"))
    supernode.start(stack)
    nodes = start_nodes(2, origin.start(stack), supernode, tmp_path, stack)
    for node in nodes:
        assert pull(node)[0].headers["docker-content-digest"] == old
    new = origin.push(random_bytes(100_000, "new"))
    for node in nodes:
        assert get(node, TAGGED).headers["docker-content-digest"] == old
    assert order(nodes[0], "refresh", REPOSITORY) == {"refreshed": f"docker.io/{REPOSITORY}"}
    for node in nodes:
        assert get(node, TAGGED).headers["docker-content-digest"] == new

    first = nodes[0]
    digest = json.loads(get(first, TAGGED).body)["layers"][0]["digest"]
    assert get(first, blob_path(digest)).status == 200
    removed = order(first, "rm", f"{REPOSITORY}:latest")
    assert {new, digest} <= set(removed["removed"])  # type: ignore[call-overload]
    assert not {new, digest} & first.stored()
    assert {got.status for got in pull(first)} == {200}
    assert order(first, "status")["supernode_connected"] is True


def test_a_cluster_asks_the_origin_no_more_than_one_node(
    origin: ScriptedOrigin, supernode: Supernode, tmp_path: Path, stack: ExitStack, pool: ThreadPoolExecutor
) -> None:
    """Twelve layers, one node alone and then sixteen at once; ranges are those of leases.

    What is missing takes a HEAD and a GET. A second node asks as well, once for the tag and once for what is missing.
    """
    origin.push(*(random_bytes(300_000, f"layer {place}") for place in range(12)))
    url = origin.start(stack)
    alone = Node(tmp_path / "alone", {UPSTREAM: url})
    with ExitStack() as inner:
        alone.start(inner)
        assert {got.status for got in pull(alone)} == {200}
    one = sum(origin.requests.values()) - origin.ranges
    origin.requests.clear()
    origin.ranges = 0

    supernode.start(stack)
    nodes = start_nodes(16, url, supernode, tmp_path, stack)
    for answers in pool.map(pull, nodes):
        assert {got.status for got in answers} == {200}
    missing = list(pool.map(lambda node: get(node, f"/v2/{REPOSITORY}/manifests/missing").status, nodes))
    assert missing == [404] * 16
    cluster = sum(origin.requests.values()) - origin.ranges
    print(f"one node {one} requests, sixteen {cluster} and {origin.ranges} ranges: {dict(origin.requests)}")
    assert cluster <= one + 2 + (1 + 2)
