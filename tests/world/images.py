"""Real images for the real registry: Debian's root filesystem in layers, and what clients treat differently."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from bench.images import CONFIG_TYPE
from shoal.descriptor import OCI_INDEX, OCI_MANIFEST
from tests.world.debian import bootstrap
from tests.world.programs import require, run

GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
CACHE = Path(__file__).parents[2] / ".cache"
"""Kept between runs: a root filesystem takes half a minute to make."""

_PARTS = (("usr/bin", "usr/sbin"), ("usr/lib",), ("etc", "var/lib/dpkg"))
"""The folders of a root filesystem that make a layer each; a small part of a real image, in its real shape."""


_BLOCK = 1 << 20


@dataclass(frozen=True)
class Layer:
    """A layer's compressed content, and the digest of what is inside."""

    content: bytes
    diff_id: str
    media_type: str = GZIP_LAYER


class Layout:
    """An OCI image layout in a folder, to be pushed by skopeo."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blobs = folder / "blobs/sha256"
        self._blobs.mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def put(self, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()
        (self._blobs / name).write_bytes(content)
        return f"sha256:{name}"

    def sizes(self) -> dict[str, int]:
        """What was put, by digest."""
        return {f"sha256:{path.name}": path.stat().st_size for path in self._blobs.iterdir()}

    def image(self, layers: list[Layer], architecture: str = "amd64") -> dict[str, object]:
        """The descriptor of a manifest."""
        config = json.dumps(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            }
        ).encode()
        entries = [
            {"mediaType": layer.media_type, "digest": self.put(layer.content), "size": len(layer.content)}
            for layer in layers
        ]
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": {"mediaType": CONFIG_TYPE, "digest": self.put(config), "size": len(config)},
                "layers": entries,
            }
        ).encode()
        return {"mediaType": OCI_MANIFEST, "digest": self.put(manifest), "size": len(manifest)}

    def index(self, children: dict[str, list[Layer]]) -> dict[str, object]:
        """The descriptor of an index with an image for each architecture."""
        manifests = [
            {**self.image(layers, name), "platform": {"os": "linux", "architecture": name}}
            for name, layers in children.items()
        ]
        index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}).encode()
        return {"mediaType": OCI_INDEX, "digest": self.put(index), "size": len(index)}

    def push(self, descriptor: dict[str, object], registry_port: int, image: str) -> str:
        """Push what `descriptor` names as `image` (`name:tag`); returns its digest."""
        require("skopeo")
        (self._folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
        target = f"docker://127.0.0.1:{registry_port}/{image}"
        options = ("--dest-tls-verify=false", "--all", "--preserve-digests")
        run("skopeo", "--insecure-policy", "copy", *options, f"oci:{self._folder}", target)
        return str(descriptor["digest"])


def debian_layers() -> list[Layer]:
    """Layers of a Debian root filesystem; made once by debootstrap from the sources that this machine has."""
    cached = [CACHE / f"debian-{place}.tar.gz" for place in range(len(_PARTS))]
    if not all(path.exists() for path in cached):
        require("debootstrap")
        _bootstrap(cached)
    return [_gzipped(path.read_bytes()) for path in cached]


def _bootstrap(targets: list[Path]) -> None:
    CACHE.mkdir(exist_ok=True)
    root = CACHE / f"root-{os.getpid()}"
    try:
        bootstrap(root)
        for parts, target in zip(_PARTS, targets, strict=True):
            made = target.with_suffix(f".{os.getpid()}")
            with tarfile.open(made, "w:gz", compresslevel=1) as archive:
                for part in parts:
                    archive.add(root / part, part)
            made.replace(target)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _gzipped(content: bytes) -> Layer:
    return Layer(content, "sha256:" + hashlib.sha256(gzip.decompress(content)).hexdigest())


def made_layer(name: str, size: int, *, seed: int = 0) -> Layer:
    """A gzip layer with one file of `size` incompressible bytes."""
    archive = _archive(name, size, seed)
    return Layer(gzip.compress(archive, compresslevel=1, mtime=0), _diff_id(archive))


def zstd_layer(name: str, size: int) -> Layer:
    """The same, compressed by zstd."""
    require("zstd")
    archive = _archive(name, size, 0)
    content = subprocess.run(["zstd", "--stdout", "--quiet"], input=archive, check=True, capture_output=True).stdout
    return Layer(content, _diff_id(archive), ZSTD_LAYER)


def random_bytes(size: int, seed: object) -> bytes:
    """Bytes that do not compress."""
    rng = random.Random(str(seed))
    return b"".join(rng.randbytes(min(_BLOCK, size - start)) for start in range(0, size, _BLOCK))


def _archive(name: str, size: int, seed: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = size
        archive.addfile(entry, io.BytesIO(random_bytes(size, f"{name} {seed}")))
    return buffer.getvalue()


def _diff_id(archive: bytes) -> str:
    return "sha256:" + hashlib.sha256(archive).hexdigest()
