"""Images made for measuring: layers of random bytes from a seed, laid out as the distribution registry stores them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
REGISTRY = "origin.test:5000"
"""What the images' registry is called; configurations say where it listens."""

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Image:
    """A pushed image. `blobs` are the digests of layers and configuration, `size` the bytes of all its blobs."""

    repository: str
    digest: str
    blobs: tuple[str, ...]
    size: int
    registry: str = REGISTRY


def make(root: Path, repository: str, layers: Sequence[int], seed: int) -> Image:
    """Put an image with layers of these sizes (bytes) into a registry's storage, tagged `latest`."""
    rng = random.Random(seed)
    store = _Storage(root, repository)
    entries = [
        {"mediaType": LAYER_TYPE, "digest": store.layer(_random_file(root, size, rng)), "size": size} for size in layers
    ]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [entry["digest"] for entry in entries]},
            "history": [{"created_by": f"seed {seed}"}],
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": store.content(config), "size": len(config)},
            "layers": entries,
        }
    ).encode()
    digest = store.content(manifest)
    store.tag(digest)
    blobs = (*(str(entry["digest"]) for entry in entries), _digest(config))
    return Image(repository, digest, blobs, sum(layers) + len(config) + len(manifest))


class _Storage:
    """The distribution registry's filesystem layout (its `storage/paths.go` tells it)."""

    def __init__(self, root: Path, repository: str) -> None:
        self._base = root / "docker/registry/v2"
        self._repository = self._base / "repositories" / repository

    def layer(self, file: Path) -> str:
        with file.open("rb") as opened:
            digest = "sha256:" + hashlib.file_digest(opened, "sha256").hexdigest()
        target = self._data(digest)
        file.replace(target)
        self._link("_layers", digest)
        return digest

    def content(self, content: bytes) -> str:
        digest = _digest(content)
        self._data(digest).write_bytes(content)
        self._link("_layers", digest)
        return digest

    def tag(self, digest: str) -> None:
        self._link("_manifests/revisions", digest)
        self._link("_manifests/tags/latest/index", digest)
        current = self._repository / "_manifests/tags/latest/current/link"
        current.parent.mkdir(parents=True, exist_ok=True)
        current.write_text(digest)

    def _data(self, digest: str) -> Path:
        name = digest.removeprefix("sha256:")
        path = self._base / "blobs/sha256" / name[:2] / name / "data"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _link(self, kind: str, digest: str) -> None:
        link = self._repository / kind / "sha256" / digest.removeprefix("sha256:") / "link"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.write_text(digest)


def _random_file(root: Path, size: int, rng: random.Random) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    path = root / "layer.new"
    with path.open("wb") as file:
        for start in range(0, size, _BLOCK):
            file.write(rng.randbytes(min(_BLOCK, size - start)))
    return path


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
