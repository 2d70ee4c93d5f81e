"""Why pulls are slow: each planted reason is the one that is told."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bench.daemons import ask
from tests.cli.tree import run
from tests.world.client import get
from tests.world.images import random_bytes
from tests.world.nodes import Node, Supernode
from tests.world.origin import ScriptedOrigin
from tests.world.swarm import UPSTREAM, blob_path, start_nodes

MIB = 1 << 20


def push(origin: ScriptedOrigin, name: str, size: int = MIB) -> str:
    """An image of one layer; returns its layer's digest."""
    layer = random_bytes(size, name)
    origin.push(layer, repository=f"library/{name}")
    return next(digest for digest, content in origin.contents.items() if content is layer)


def pull(node: Node, origin: ScriptedOrigin, name: str) -> Any:
    """Pull an image, one blob after the other; returns what is told of that."""
    manifest = json.loads(get(node, f"/v2/library/{name}/manifests/latest").body)
    for part in (manifest["config"], *manifest["layers"]):
        got = get(node, blob_path(part["digest"], f"library/{name}"))
        assert got.brings(origin.contents[part["digest"]])
    return explained(node, name)


def explained(node: Node, name: str) -> Any:
    status, text = ask(node.operations_port, f"/v1/pulls/explain?image={UPSTREAM}/library/{name}:latest")
    assert status == 200, text
    told = json.loads(text)
    for each in (told, *told["requests"]):
        assert sum(cause["seconds"] for cause in each["causes"]) == pytest.approx(each["seconds"], abs=0.02)
    return told


def main_cause(told: Any) -> str:
    return str(told["causes"][0]["cause"])


def kinds(told: Any) -> set[str]:
    return {source["kind"] for source in told["sources"]}


def read_slowly(node: Node, path: str, seconds: float) -> None:
    """A client that takes nothing for so long, and then all."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        client.connect(("127.0.0.1", node.proxy_port))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        time.sleep(seconds)
        while client.recv(MIB):
            pass


def test_the_causes_of_a_node_on_its_own_are_told_apart(
    origin: ScriptedOrigin,
    tmp_path: Path,
    stack: ExitStack,
    capsys: pytest.CaptureFixture[str],
    logs_as_before: None,
) -> None:
    node = Node(tmp_path / "node", {UPSTREAM: origin.start(stack)})
    node.start(stack)
    here = ["--operations", f"127.0.0.1:{node.operations_port}", "--store", str(node.folder / "store")]

    push(origin, "late")
    origin.delay = 0.5
    told = pull(node, origin, "late")
    assert main_cause(told) == "origin_answer"
    assert "waiting for the origin's first byte" in told["verdict"]
    assert kinds(told) == {"origin"}
    origin.behave()

    told = pull(node, origin, "late")
    assert kinds(told) == {"store"}
    assert "were in this node's store" in told["verdict"]

    push(origin, "thin")
    origin.rate = 2 * MIB
    told = pull(node, origin, "thin")
    assert main_cause(told) == "origin"
    assert "while the origin was sending" in told["verdict"]
    origin.rate = 0

    push(origin, "limited")
    origin.refusals = [(429, {"Retry-After": "1"})]
    told = pull(node, origin, "limited")
    assert main_cause(told) == "rate_limited"
    assert "rate limit (429)" in told["verdict"]

    push(origin, "failing")
    origin.refusals = [(500, {})] * 3
    told = pull(node, origin, "failing")
    assert main_cause(told) == "origin_failed"

    push(origin, "stalled")
    origin.stalls = [300_000] * 2
    told = pull(node, origin, "stalled")
    assert main_cause(told) == "origin_stalled"

    assert run(capsys, ["limit", "origin", "1MB/s", *here]).code == 0
    push(origin, "held")
    told = pull(node, origin, "held")
    assert main_cause(told) == "limit"
    assert "`shoal limit`" in told["verdict"]
    assert run(capsys, ["limit", "origin", "none", *here]).code == 0

    layer = push(origin, "taken", 16 * MIB)
    get(node, "/v2/library/taken/manifests/latest")
    read_slowly(node, blob_path(layer, "library/taken"), 0.8)
    told = explained(node, "taken")
    assert main_cause(told) == "client"
    assert "while the client took what was there" in told["verdict"]

    shown = run(capsys, ["explain", f"{UPSTREAM}/library/late:latest", *here])
    assert shown.code == 0
    assert "were in this node's store" in shown.out
    assert "library/taken" in run(capsys, ["explain", *here]).out
    assert run(capsys, ["explain", "--list", *here]).out.count("library/late") == 2
    assert run(capsys, ["explain", "docker.io/library/never", *here]).code == 1


def test_a_supernode_that_is_gone_is_told(origin: ScriptedOrigin, tmp_path: Path, stack: ExitStack) -> None:
    gone = Supernode(tmp_path / "supernode")
    settings = {"SHOAL_PEER__ORIGIN_WAIT": "1s"}
    node = Node(tmp_path / "node", {UPSTREAM: origin.start(stack)}, gone.port, settings)
    stack.enter_context(node.daemon()).wait_for(node.proxy_port)
    push(origin, "alone")
    time.sleep(0.1)
    told = pull(node, origin, "alone")
    assert main_cause(told) == "supernode_gone", told["causes"]


def test_what_neighbours_bring_is_told_of_them(
    origin: ScriptedOrigin, supernode: Supernode, tmp_path: Path, stack: ExitStack
) -> None:
    supernode.start(stack)
    one, two = start_nodes(2, origin.start(stack), supernode, tmp_path, stack)
    push(origin, "shared", 4 * MIB)
    assert kinds(pull(one, origin, "shared")) == {"origin"}
    told = pull(two, origin, "shared")
    layer = told["requests"][-1]
    assert [(each["name"], each["origin"]) for each in layer["brought"]] == [(f"127.0.0.1:{one.peer_port}", False)]
    assert "came from one neighbour" in told["verdict"]
