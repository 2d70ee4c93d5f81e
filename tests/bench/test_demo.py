"""The demo's parts that the real registry and the real client hide where they are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from bench.daemons import free_ports
from bench.images import write_image
from bench.origin import SmallRegistry
from shoal.cli.image import Silence, pull
from shoal.platforms import own_platform
from shoal.reference import Reference


async def test_the_small_registry_serves_an_image_and_counts_it(tmp_path: Path) -> None:
    image = write_image(tmp_path, "demo/image", [300_000, 2_000])
    with ExitStack() as stack:
        registry = SmallRegistry(stack, tmp_path, free_ports(1)[0])
        reference = Reference.parse(f"{registry.name}/demo/image:latest")
        pulled = await pull(registry.url, reference, own_platform(), Silence())
        requests, sent = registry.traffic()
    assert {blob.digest for blob in pulled.blobs} == {digest for digest, _ in image.blobs}
    assert requests == 4
    assert sent >= image.size


def test_the_demo_needs_no_installed_program(tmp_path: Path) -> None:
    """Neither registry nor skopeo on the PATH: the embedded default does the whole job."""
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "bench.demo", "--json"], check=False, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    keys = {"nodes", "image_bytes", "origin_bytes", "origin_egress", "origin_requests", "verified"}
    assert set(outcome) >= keys
    assert outcome["verified"]
    assert outcome["origin_egress"] <= 1.02
    assert outcome["image_bytes"] >= 300_000_000
