"""More layers at once than a node may have files open."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from shoal.digest import Digest
from tests.world.client import get
from tests.world.images import random_bytes
from tests.world.nodes import Node
from tests.world.origin import ScriptedOrigin

_DESCRIPTORS = 256
"""Room for 25 open blobs and 51 clients."""
_PULLS, _LAYERS, _AT_ONCE = 6, 60, 8


def test_no_pull_is_cut_or_refused(origin: ScriptedOrigin, tmp_path: Path, stack: ExitStack) -> None:
    node = Node(tmp_path / "node", {"docker.io": origin.start(stack)}, descriptors=_DESCRIPTORS)
    images = {
        f"library/image{place}": [random_bytes(20_000, f"{place} {layer}") for layer in range(_LAYERS)]
        for place in range(_PULLS)
    }
    for repository, layers in images.items():
        origin.push(*layers, repository=repository)
    node.start(stack)

    def pull(repository: str) -> None:
        assert get(node, f"/v2/{repository}/manifests/latest").status == 200
        with ThreadPoolExecutor(_AT_ONCE) as clients:
            layers = images[repository]
            paths = [f"/v2/{repository}/blobs/{Digest.of(layer)}" for layer in layers]
            for got, layer in zip(clients.map(get, itertools.repeat(node), paths), layers, strict=True):
                assert (got.status, got.brings(layer)) == (200, True)

    with ThreadPoolExecutor(_PULLS) as pool:
        list(pool.map(pull, images))
    assert node.counted("shoal_proxy_cut_responses_total") == 0
    assert node.counted("shoal_proxy_refused_connections_total") == 0
    assert node.is_ready
    assert "Traceback" not in node.log
