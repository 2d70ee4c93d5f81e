"""`shoal preheat` with real daemons: what it says at the end is so, on every node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.daemons import Daemon
from bench.images import BenchImage, write_image
from bench.origin import PROGRAM
from shoal.digest import Digest
from tests.world.artifacts import push_artifact, push_fallback_tag
from tests.world.client import get
from tests.world.images import Layout, made_layer
from tests.world.nodes import Node, Supernode, wait_until
from tests.world.programs import require, require_root
from tests.world.registries import USERS, Registry

UPSTREAM = "registry.test:5000"
REPOSITORY = "base/image"
IMAGE = f"{UPSTREAM}/{REPOSITORY}:latest"
TOKEN = "registry-token-of-forty-letters-or-so"
MIB = 1 << 20


class Cluster:
    """A registry with an image, a supernode, and nodes by their names."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self.supernode = Supernode(folder / "supernode")
        self.running: Daemon
        webhook = f"http://127.0.0.1:{self.supernode.operations_port}/v1/webhooks/registry"
        self.registry = Registry(folder / "registry", notifies=webhook, token=TOKEN).start(stack)
        self.image: BenchImage = write_image(self.registry.root, REPOSITORY, [3 * MIB, MIB])
        (folder / "tokens").write_text(f"registry {TOKEN}\n")
        nightly = {"cron": "*/3 * * * * *", "images": [f"{UPSTREAM}/base/nightly:1.*"], "keep": 2, "pin": True}
        self.supernode.settings |= {
            "SHOAL_SUPERNODE__PREHEAT__SCHEDULES": json.dumps({"base": {**nightly, "rate": "50MB/s"}}),
            "SHOAL_SUPERNODE__AUDIT": str(folder / "audit"),
            "SHOAL_SUPERNODE__PREHEAT__TOKENS_FILE": str(folder / "tokens"),
            "SHOAL_SUPERNODE__PREHEAT__PUSHES__REGISTRIES": json.dumps({f"127.0.0.1:{self.registry.port}": UPSTREAM}),
        }

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
    cluster.running = cluster.supernode.start(stack)
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
    audit = cluster.folder / "audit"
    wait_until(lambda: audit.read_text().count('"action":"preheat"') == 2, "both orders are noted")
    noted = next(line for line in map(json.loads, audit.read_text().splitlines()) if line["action"] == "preheat")
    assert (noted["images"], noted["nodes"], noted["status"]) == (IMAGE, "all", 200)


def test_a_private_image_comes_to_nodes_that_may_read_it_and_from_there_to_nobody_else(
    cluster: Cluster, stack: ExitStack
) -> None:
    """The node's credentials need not serve its clients for that."""
    locked = Registry(cluster.folder / "locked", storage=cluster.registry.root, htpasswd=True).start(stack)
    upstream = {"url": locked.url, "username": "alice", "password": USERS["alice"]}
    alice = cluster.node("alice", SHOAL_PROXY__UPSTREAMS=json.dumps({UPSTREAM: upstream}))
    stranger = cluster.node("stranger", locked)

    code, printed, _ = cluster.shoal("preheat", IMAGE, "--json")
    found = by_node(json.loads(printed))
    assert (code, found["alice"]["state"], found["stranger"]["state"]) == (1, "done", "failed")
    assert {digest for digest, _ in cluster.image.blobs} <= alice.stored()
    manifest = f"/v2/{REPOSITORY}/manifests/{cluster.image.digest}"
    assert [get(node, manifest).status for node in (alice, stranger)] == [401, 401]


def test_a_client_does_not_wait_for_it_and_ctrl_c_cancels_it_on_the_nodes(cluster: Cluster) -> None:
    """What has come stays."""
    node = cluster.node("slow")
    command = [sys.executable, "-m", "shoal.cli", "preheat", IMAGE, "--rate", "200kB/s", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(cluster.environment)
    )
    try:
        wait_until(lambda: node.received("origin") > 300_000, "something has come")
        digest, size = cluster.image.blobs[-1]
        began = time.monotonic()
        assert len(get(node, f"/v2/{REPOSITORY}/blobs/{digest}").body) == size
        assert time.monotonic() - began < size / 400_000
        process.send_signal(signal.SIGINT)
        printed, told = process.communicate(timeout=30)
    finally:
        process.kill()
    assert "Traceback" not in told
    job = json.loads(printed)
    assert (process.returncode, job["state"], by_node(job)["slow"]["state"]) == (130, "cancelled", "cancelled")
    wait_until(lambda: node.counted("shoal_downloads") == 0, "the node has stopped")
    before = node.received("origin")
    assert before < cluster.image.size
    assert node.counted('shoal_downloads_ended_total{outcome="unwanted"}') >= 1
    assert node.counted('shoal_downloads_ended_total{outcome="failed"}') == 0
    assert "blob.failed" not in node.log

    code, printed, _ = cluster.shoal("preheat", IMAGE, "--json")
    assert (code, by_node(json.loads(printed))["slow"]["state"]) == (0, "done")
    assert node.received("origin") < cluster.image.size + MIB


def test_what_is_pushed_to_a_registry_comes_to_the_nodes(cluster: Cluster, tmp_path: Path) -> None:
    require("skopeo")
    nodes = [cluster.node("one"), cluster.node("two")]
    layout = Layout(tmp_path / "layout")
    for push in range(2):
        layers = [made_layer(f"pushed {push}", 300_000)]
        digest = layout.push(layout.image(layers), cluster.registry.port, "team/app:1.0")
        for node in nodes:
            wait_until(lambda node=node, digest=digest: digest in node.stored(), "the image is there")  # type: ignore[misc]
    code, printed, _ = cluster.shoal("preheats", "--json")
    jobs = json.loads(printed)["preheats"]
    assert (code, {job["by"] for job in jobs}) == (0, {"push"})
    assert all(job["images"] == [f"{UPSTREAM}/team/app:1.0"] for job in jobs)


def test_what_is_scheduled_is_pinned_as_long_as_it_is_the_newest(cluster: Cluster) -> None:
    node = cluster.node("one")
    pins = node.folder / "store/pins.json"

    def pinned(*tags: str) -> bool:
        names = [name for names in json.loads(pins.read_text()).values() for name in names] if pins.exists() else []
        return sorted(names) == [f"schedule:base {UPSTREAM}/base/nightly:{tag}" for tag in tags]

    for tag in ("1.9", "1.10", "1.11"):
        write_image(cluster.registry.root, "base/nightly", [100_000], tag)
    wait_until(lambda: pinned("1.10", "1.11"), "the newest are pinned")
    write_image(cluster.registry.root, "base/nightly", [200_000], "1.12")
    wait_until(lambda: pinned("1.11", "1.12"), "the oldest is let go")


def test_a_preheat_goes_on_when_its_supernode_is_started_anew(cluster: Cluster, stack: ExitStack) -> None:
    cluster.node("one")
    code, job_id, _ = cluster.shoal("preheat", IMAGE, "--rate", "1MB/s", "--detach")
    assert code == 0
    cluster.running.kill()
    cluster.supernode.start(stack)
    code, printed, _ = cluster.shoal("preheats", job_id.strip(), "--follow", "--json")
    assert (code, by_node(json.loads(printed))["one"]["state"]) == (0, "done")
