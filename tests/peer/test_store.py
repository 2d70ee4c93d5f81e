"""The store as a whole: its layout, its lock, what it finds at a start, verification."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

import peer.store
from peer.store import Store, StoreBusy, StoreError
from shoal.descriptor import OCI_INDEX, OCI_MANIFEST
from shoal.digest import Digest
from shoal.pieces import MAX_BLOB_SIZE

CONTENT = b"a layer, or nearly"
DIGEST = Digest.of(CONTENT)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "deep" / "store")
    store.open()
    yield store
    store.close()


def restart(store: Store) -> None:
    store.close()
    store.open()


def test_nothing_is_touched_before_open(tmp_path: Path) -> None:
    Store(tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_the_layout_is_that_of_an_oci_image(store: Store) -> None:
    names = {path.name for path in store.root.iterdir()}
    assert names == {"oci-layout", "index.json", "blobs", "partial", "quarantine", "lock"}
    assert json.loads((store.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((store.root / "index.json").read_bytes())
    assert index == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


def test_an_index_that_is_there_stays(store: Store) -> None:
    (store.root / "index.json").write_text("{}")
    restart(store)
    assert (store.root / "index.json").read_text() == "{}"


def test_file_modes(store: Store) -> None:
    umask = os.umask(0)
    try:
        store.put(DIGEST, CONTENT)
        partial = store.partial(Digest.of(b"x"), 1)
        partial.write(0, b"x")
        partial.mark(0, None)
        path = partial.finish()
        partial.close()
    finally:
        os.umask(umask)
    assert {stat.S_IMODE(each.stat().st_mode) for each in (path, store.path(DIGEST))} == {0o644}
    assert stat.S_IMODE((store.root / "blobs").stat().st_mode) & 0o755 == 0o755 & ~umask


def test_small_content_is_put_and_found_again(store: Store) -> None:
    store.put(DIGEST, CONTENT)
    store.put(DIGEST, CONTENT)
    assert store.size(DIGEST) == len(CONTENT)
    restart(store)
    assert list(store.digests()) == [(DIGEST, len(CONTENT))]
    assert store.path(DIGEST).read_bytes() == CONTENT
    store.delete(DIGEST)
    store.delete(DIGEST)
    assert store.size(DIGEST) is None
    restart(store)
    assert store.size(DIGEST) is None


def test_content_under_a_wrong_name_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="not that of sha256:"):
        store.put(DIGEST, b"something else")
    assert not store.path(DIGEST).exists()
    assert list((store.root / "partial").iterdir()) == []


def test_many_small_blobs_at_once(store: Store) -> None:
    contents = [f"blob {number}".encode() for number in range(60)]

    def pull(content: bytes) -> None:
        partial = store.partial(Digest.of(content), len(content))
        partial.write(0, content)
        partial.mark(0, None)
        partial.finish()
        partial.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(pull, contents))
    assert dict(store.digests()) == {Digest.of(content): len(content) for content in contents}
    assert all(good for _, good in store.verify())


def test_a_second_opening_is_refused(store: Store) -> None:
    with pytest.raises(StoreBusy, match="in use"):
        Store(store.root).open()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from peer.store import Store\n"
        "store = Store(Path(sys.argv[1])); store.open(); print('open', flush=True); sys.stdin.read()"
    )
    packages = {"PYTHONPATH": str(Path(peer.store.__file__).parents[1])}
    store = Store(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | packages,
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline() != b"open\n":
            assert process.poll() is None
        with pytest.raises(StoreBusy):
            store.open()
        process.kill()
    store.open()
    store.close()


def test_a_root_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreError, match=r"cannot open the store .*: File exists"):
        Store(tmp_path / "store").open()


def test_a_store_that_is_not_open_takes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not open"):
        Store(tmp_path).partial(DIGEST, 1)


@pytest.mark.parametrize("size", [-1, MAX_BLOB_SIZE + 1])
def test_a_size_out_of_bounds_is_refused(store: Store, size: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        store.partial(DIGEST, size)
    assert list((store.root / "partial").iterdir()) == []


def test_a_start_removes_what_a_crash_left(store: Store) -> None:
    store.put(DIGEST, CONTENT)
    folder = store.root / "partial"
    for name in (
        f"sha256-{'1' * 64}.state.0.tmp",
        f"sha256-{'2' * 64}.data",
        f"sha256-{'3' * 64}.state",
        f"sha256-{DIGEST.hex}.data",
        f"sha256-{DIGEST.hex}.state",
    ):
        (folder / name).write_bytes(b"left")
    (folder / "notes.txt").write_bytes(b"somebody's")
    restart(store)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert store.size(DIGEST) == len(CONTENT)


def test_strange_files_among_the_blobs_are_not_blobs(store: Store) -> None:
    blobs = store.root / "blobs" / "sha256"
    (blobs / "README").write_text("")
    (blobs / ("A" * 64)).write_text("")
    (blobs / ("b" * 64)).symlink_to("/etc/hostname")
    (blobs / ("c" * 64)).mkdir()
    with capture_logs() as lines:
        restart(store)
    assert list(store.digests()) == []
    assert [line["event"] for line in lines].count("store.ignored") == 2


def test_verify_quarantines_what_is_wrong(store: Store) -> None:
    contents = [b"right", b"altered", b"cut short", b"gone"]
    digests = [Digest.of(content) for content in contents]
    for digest, content in zip(digests, contents, strict=True):
        store.put(digest, content)
    store.path(digests[1]).write_bytes(b"altereD")
    store.path(digests[2]).write_bytes(b"cut")
    store.path(digests[3]).unlink()
    with capture_logs() as lines:
        assert dict(store.verify()) == {digests[0]: True, digests[1]: False, digests[2]: False}
    assert [line["event"] for line in lines] == ["blob.quarantined", "blob.quarantined"]
    assert list(store.digests()) == [(digests[0], 5)]
    assert (store.root / "quarantine" / f"sha256-{digests[1].hex}").read_bytes() == b"altereD"
    assert not store.path(digests[1]).exists()
    restart(store)
    assert list(store.verify()) == [(digests[0], True)]


def test_skopeo_reads_the_layout(store: Store, tmp_path: Path) -> None:
    if shutil.which("skopeo") is None:
        if os.environ.get("SHOAL_REQUIRE_REAL") == "1":
            pytest.fail("skopeo is not installed")
        pytest.skip("skopeo is not installed")

    def described(content: bytes, media_type: str) -> dict[str, object]:
        store.put(Digest.of(content), content)
        return {"mediaType": media_type, "digest": Digest.of(content), "size": len(content)}

    layer = bytes(10240)  # an empty tar archive
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest.of(layer)]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [described(layer, "application/vnd.oci.image.layer.v1.tar")],
    }
    entry = described(json.dumps(manifest).encode(), OCI_MANIFEST)
    (store.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    command = ["skopeo", "--insecure-policy", "copy", f"oci:{store.root}", f"dir:{tmp_path / 'out'}"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert (tmp_path / "out" / Digest.of(layer).hex).read_bytes() == layer
