"""Blobs behind signed URLs that expire while the blob comes, from a real registry and through a real node."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from bench.images import write_image
from bench.origin import PROGRAM
from tests.world.client import get
from tests.world.front import Fault, Front
from tests.world.nodes import Node
from tests.world.programs import require
from tests.world.registries import Registry
from tests.world.swarm import UPSTREAM, blob_path


def test_a_signed_url_that_expires_in_mid_blob_is_asked_for_anew(tmp_path: Path, stack: ExitStack) -> None:
    require(PROGRAM)
    registry = Registry(tmp_path / "registry").start(stack)
    image = write_image(registry.root, "library/signed", [6_000_000])
    # each body breaks off after 2 MB and longer than its URL is good for
    broken = Fault(cut=2_000_000, rate=4_000_000, kinds=("blobs",))
    front = Front(registry.url, redirects=True, url_lifetime=0.3, faults={"library/": broken}).start(stack)
    node = Node(tmp_path / "node", {UPSTREAM: front.url})
    node.start(stack)
    assert get(node, "/v2/library/signed/manifests/latest").status == 200
    digest, size = image.blobs[1]
    got = get(node, blob_path(digest, "library/signed"))
    assert (got.status, len(got.body), got.cut) == (200, size, False)
    assert got.longest_gap < 5
    asked = [seen for seen in front.seen if seen.kind == "blobs" and seen.method == "GET"]
    assert len(asked) >= 3
    assert len(front.store_seen) == len({seen.query or seen.path for seen in front.store_seen})  # no URL is used twice
    assert "X-Signature" not in node.log
