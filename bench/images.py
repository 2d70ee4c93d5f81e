"""Images for measurements: the same incompressible bytes each time, put where a registry keeps them."""

from __future__ import annotations

import hashlib
import json
import random
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.descriptor import OCI_MANIFEST
from shoal.digest import Digest

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"

_CHUNK = 1 << 20
_TAR_BLOCK = 512
_TAR_END = bytes(2 * _TAR_BLOCK)
SMALLEST_LAYER = 2 * _TAR_BLOCK + len(_TAR_END)


@dataclass(frozen=True, slots=True)
class BenchImage:
    """An image in a registry's storage. `blobs` is the configuration, then the layers, with their sizes in bytes."""

    repository: str
    tag: str
    digest: Digest
    blobs: tuple[tuple[Digest, int], ...]

    @property
    def size(self) -> int:
        """Bytes of all blobs, without the manifest."""
        return sum(size for _, size in self.blobs)


def layer(size: int, seed: str) -> Iterator[bytes]:
    """A layer of `size` bytes, rounded down to tar blocks of 512: an archive of one file of random bytes."""
    size = max(SMALLEST_LAYER, size // _TAR_BLOCK * _TAR_BLOCK)
    member = tarfile.TarInfo(f"data/{seed}")
    member.size = size - _TAR_BLOCK - len(_TAR_END)
    yield member.tobuf(tarfile.USTAR_FORMAT)
    rng = random.Random(seed)
    for start in range(0, member.size, _CHUNK):
        yield rng.randbytes(min(_CHUNK, member.size - start))
    yield _TAR_END


def write_image(root: Path, repository: str, sizes: Sequence[int], tag: str = "latest") -> BenchImage:
    """Write an image of layers of `sizes` bytes into the storage folder of a registry (distribution's `filesystem`).

    The bytes follow from the repository's name and the layers' places.
    """
    storage = _Storage(root / "docker/registry/v2", repository)
    layers = [storage.put_layer(size, f"{repository.replace('/', '-')}-{place}") for place, size in enumerate(sizes)]
    configuration = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest for digest, _ in layers]},
    }
    config = storage.put_blob(_json(configuration), "_layers")
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _descriptor(CONFIG_TYPE, config),
        "layers": [_descriptor(LAYER_TYPE, each) for each in layers],
    }
    digest, _ = storage.put_blob(_json(manifest), "_manifests/revisions")
    storage.tag(tag, digest)
    return BenchImage(repository, tag, digest, (config, *layers))


class _Storage:
    """The folders of one repository in distribution's storage (`registry/storage/paths.go` of that project)."""

    def __init__(self, root: Path, repository: str) -> None:
        self._blobs = root / "blobs"
        self._repository = root / "repositories" / repository

    def put_blob(self, content: bytes, links: str) -> tuple[Digest, int]:
        digest = Digest.of(content)
        path = self._data(digest)
        path.write_bytes(content)
        self._link(f"{links}/sha256/{digest.hex}", digest)
        return digest, len(content)

    def put_layer(self, size: int, seed: str) -> tuple[Digest, int]:
        hasher, written = hashlib.sha256(), 0
        self._blobs.mkdir(parents=True, exist_ok=True)
        unnamed = self._blobs / "unnamed"
        with unnamed.open("wb") as file:
            for chunk in layer(size, seed):
                hasher.update(chunk)
                written += file.write(chunk)
        digest = Digest(f"sha256:{hasher.hexdigest()}")
        unnamed.rename(self._data(digest))
        self._link(f"_layers/sha256/{digest.hex}", digest)
        return digest, written

    def tag(self, tag: str, digest: Digest) -> None:
        self._link(f"_manifests/tags/{tag}/current", digest)
        self._link(f"_manifests/tags/{tag}/index/sha256/{digest.hex}", digest)

    def _data(self, digest: Digest) -> Path:
        folder = self._blobs / "sha256" / digest.hex[:2] / digest.hex
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "data"

    def _link(self, place: str, digest: Digest) -> None:
        folder = self._repository / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "link").write_text(digest)


def blob_path(root: Path, digest: Digest) -> Path:
    """Where a registry's storage folder keeps a blob's bytes."""
    return root / "docker/registry/v2/blobs/sha256" / digest.hex[:2] / digest.hex / "data"


def _descriptor(media_type: str, blob: tuple[Digest, int]) -> dict[str, object]:
    return {"mediaType": media_type, "digest": blob[0], "size": blob[1]}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
