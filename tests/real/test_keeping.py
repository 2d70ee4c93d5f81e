"""Pins, sweeps and verification of a real node by its commands, with the daemon and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from shoal.digest import Digest
from tests.world.client import get
from tests.world.images import random_bytes
from tests.world.nodes import Node
from tests.world.origin import REPOSITORY, ScriptedOrigin
from tests.world.swarm import UPSTREAM, blob_path

IMAGE = f"{REPOSITORY}:latest"


def shoal(node: Node, *arguments: str) -> tuple[int, dict[str, Any]]:
    """A command's exit code and what it tells."""
    environment = {
        "SHOAL_PEER__OPERATIONS__PORT": str(node.operations_port),
        "SHOAL_PEER__STORE": str(node.folder / "store"),
    }
    command = [sys.executable, "-m", "shoal.cli", *arguments, "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30, env=environment)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def change_unseen(path: Path) -> None:
    """Four bytes, with the file's size, inode and times as they were."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"evil")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_an_image_is_pinned_verified_and_mended(origin: ScriptedOrigin, tmp_path: Path, stack: ExitStack) -> None:
    manifest = Digest(origin.push(random_bytes(300_000, "layer")))
    audit = tmp_path / "audit"
    settings = {"SHOAL_PROXY__AUDIT": str(audit)}
    node = Node(tmp_path / "node", {UPSTREAM: origin.start(stack)}, settings=settings)
    running = stack.enter_context(ExitStack())
    node.start(running)
    content = json.loads(get(node, f"/v2/{REPOSITORY}/manifests/latest").body)
    config, layer = (Digest(each["digest"]) for each in (content["config"], *content["layers"]))
    for digest in (config, layer):
        assert get(node, blob_path(digest)).status == 200
    code, pinned = shoal(node, "pin", IMAGE)
    assert (code, pinned["digest"], pinned["stored"], pinned["named"]) == (0, manifest, 3, 3)
    code, refused = shoal(node, "rm", IMAGE)
    assert (code, "is pinned" in refused["error"]) == (1, True)

    blobs = node.folder / "store/blobs/sha256"
    change_unseen(blobs / layer.hex)
    os.truncate(blobs / config.hex, 3)
    (blobs / manifest.hex).unlink()
    code, verified = shoal(node, "verify")
    assert code == 0
    assert set(verified["wrong"]) == set(verified["mended"]) == {manifest, config, layer}
    assert node.stored() == {manifest, config, layer}
    assert all(Digest.of((blobs / each.hex).read_bytes()) == each for each in (manifest, config, layer))

    running.close()
    code, answer = shoal(node, "unpin", IMAGE)
    assert (code, answer["digests"]) == (0, [manifest])
    change_unseen(blobs / layer.hex)
    code, verified = shoal(node, "verify")
    assert (code, verified["wrong"], verified["checked"]) == (1, [layer], 3)
    code, swept = shoal(node, "gc")
    assert (code, [each["reason"] for each in swept["removed"]]) == (0, 2 * ["quarantined"])

    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    actions = [(line["action"], line["status"], line.get("image")) for line in lines if "action" in line]
    assert actions == [
        ("pin", 200, IMAGE),
        ("rm", 409, IMAGE),
        ("verify", 200, None),
    ]


def test_images_are_shown_and_removed_in_one_way_by_a_daemon_and_at_rest(
    origin: ScriptedOrigin, tmp_path: Path, stack: ExitStack
) -> None:
    base = random_bytes(200_000, "base")
    manifests = [
        Digest(origin.push(base, random_bytes(size, "own"), repository=f"library/made-{size}")) for size in (1000, 2000)
    ]
    node = Node(tmp_path / "node", {UPSTREAM: origin.start(stack)})
    running = stack.enter_context(ExitStack())
    node.start(running)
    for size in (1000, 2000):
        content = json.loads(get(node, f"/v2/library/made-{size}/manifests/latest").body)
        for digest in (each["digest"] for each in (content["config"], *content["layers"])):
            assert get(node, f"/v2/library/made-{size}/blobs/{digest}").status == 200
    code, shown = shoal(node, "images")
    assert code == 0
    first, second = sorted(shown["images"], key=lambda image: manifests.index(image["digest"]))
    assert (first["references"], first["digest"]) == ([f"{UPSTREAM}/library/made-1000:latest"], manifests[0])
    assert [(each["platform"], each["missing"]) for each in second["platforms"]] == [("linux/amd64", 0)]
    assert (first["complete"], second["complete"], second["bytes"] - first["bytes"]) == (True, True, 1000)

    removed = shoal(node, "rm", f"{UPSTREAM}/library/made-2000:latest")[1]
    assert (removed["bytes"], len(removed["kept_by_images"])) == (second["bytes"] - second["shared_bytes"], 2)
    running.close()
    code, shown = shoal(node, "images")
    assert (code, [each["digest"] for each in shown["images"]]) == (0, [manifests[0]])
    assert shown["images"][0] == {**first, "shared_bytes": 0, "used": shown["images"][0]["used"]}
    code, removed = shoal(node, "rm", f"{UPSTREAM}/library/made-1000:latest")
    assert (code, removed["bytes"], node.stored()) == (0, first["bytes"], set())
    code, refused = shoal(node, "rm", f"{UPSTREAM}/library/made-1000:latest")
    assert (code, "is not in the store" in refused["error"]) == (1, True)
