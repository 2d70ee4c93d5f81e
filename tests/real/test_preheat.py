"""`shoal preheat` with real daemons: what it says at the end is so, on every node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.images import BenchImage, write_image
from bench.origin import PROGRAM
from shoal.digest import Digest
from tests.world.artifacts import push_artifact, push_fallback_tag
from tests.world.nodes import Node, Supernode
from tests.world.programs import require, require_root
from tests.world.registries import Registry

UPSTREAM = "registry.test:5000"
REPOSITORY = "base/image"
IMAGE = f"{UPSTREAM}/{REPOSITORY}:latest"
MIB = 1 << 20


class Cluster:
    """A registry with an image, a supernode, and nodes by their names."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self.registry = Registry(folder / "registry").start(stack)
        self.image: BenchImage = write_image(self.registry.root, REPOSITORY, [3 * MIB, MIB])
        self.supernode = Supernode(folder / "supernode")

    def node(self, name: str, registry: Registry | None = None, **settings: str) -> Node:
        """Another node, of which the supernode is told."""
        own = {"SHOAL_PEER__NAME": name, **settings}
        node = Node(self.folder / name, {UPSTREAM: (registry or self.registry).url}, self.supernode.port, own)
        node.start(self._stack)
        return node

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            **os.environ,
            "SHOAL_SUPERNODE__OPERATIONS__PORT": str(self.supernode.operations_port),
            "SHOAL_SUPERNODE__STATE": str(self.supernode.folder / "state"),
        }

    def shoal(self, *arguments: str) -> tuple[int, str, str]:
        """A command's exit code, what it prints, and what it tells meanwhile."""
        command = [sys.executable, "-m", "shoal.cli", *arguments]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=60, env=dict(self.environment)
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def cluster(tmp_path: Path, stack: ExitStack) -> Cluster:
    require(PROGRAM)
    cluster = Cluster(tmp_path, stack)
    cluster.supernode.start(stack)
    return cluster


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(path)], check=True)
    (path / "filler").write_bytes(bytes(5 * MIB))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def by_node(job: Mapping[str, Any]) -> dict[str, Any]:
    return {run["node"]: run["images"][0] for run in job["runs"]}


def test_the_summary_is_what_is_on_each_node(cluster: Cluster, stack: ExitStack) -> None:
    require_root()
    url, subject = cluster.registry.url, cluster.image.digest
    sbom = push_artifact(url, REPOSITORY, "sbom", b"all that is in it", {"digest": subject})
    push_fallback_tag(url, REPOSITORY, subject, [sbom])
    stack.enter_context(small_disk(cluster.folder / "full" / "store"))
    locked = Registry(cluster.folder / "locked", storage=cluster.registry.root, htpasswd=True).start(stack)
    good = cluster.node("good")
    cluster.node("full")
    cluster.node("stranger", locked)

    code, printed, told = cluster.shoal("preheat", IMAGE, "--pin", "--json")
    job = json.loads(printed)
    found = by_node(job)
    assert (code, job["state"]) == (1, "failed")
    assert {name: each["state"] for name, each in found.items()} == {
        "good": "done",
        "full": "failed",
        "stranger": "failed",
    }
    assert "No space left" in found["full"]["error"] or "no room" in found["full"]["error"]
    assert "the registry refuses this node" in found["stranger"]["error"]
    assert (found["good"]["digest"], found["good"]["referrers"]) == (cluster.image.digest, 2)
    assert {digest for digest, _ in cluster.image.blobs} | {Digest.of(sbom)} <= good.stored()
    assert f"good: {IMAGE}: done" in told
    assert IMAGE in (good.folder / "store/pins.json").read_text()

    sent = cluster.registry.sent()
    code, printed, _ = cluster.shoal("preheat", IMAGE, "--nodes", "name=good")
    assert (code, "1 of 1 images on 1 nodes are there, verified" in printed) == (0, True)
    assert cluster.registry.sent() - sent < 100_000
