"""The store as a whole: its layout, its lock, what it finds at a start, verification."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import pytest
from structlog.testing import capture_logs

import peer.index
import peer.inspection
import peer.store
from peer.disk import Stamp, StoreBusy, StoreError
from peer.store import Store
from shoal.descriptor import OCI_INDEX, OCI_MANIFEST, BlobKey
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
    assert names == {"oci-layout", "index.json", "blobs", "partial", "quarantine", "lock"} | {
        "index.sqlite",
        "index.sqlite-wal",
    }
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
        partial = store.partial(BlobKey(Digest.of(b"x"), 1))
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
    store.remove(DIGEST)
    store.remove(DIGEST)
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
        partial = store.partial(BlobKey(Digest.of(content), len(content)))
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
        Store(tmp_path).partial(BlobKey(DIGEST, 1))


@pytest.mark.parametrize("size", [-1, MAX_BLOB_SIZE + 1])
def test_a_size_out_of_bounds_is_refused(store: Store, size: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        store.partial(BlobKey(DIGEST, size))
    assert list((store.root / "partial").iterdir()) == []


def test_a_start_removes_what_a_crash_left(store: Store) -> None:
    store.put(DIGEST, CONTENT)
    folder = store.root / "partial"
    for name in (
        f"sha256-{'1' * 64}-9.state.0.tmp",
        f"sha256-{'2' * 64}-9.data",
        f"sha256-{'3' * 64}-9.state",
        f"sha256-{'4' * 64}-{MAX_BLOB_SIZE + 1}.data",
        f"sha256-{'4' * 64}-{MAX_BLOB_SIZE + 1}.state",
        f"sha256-{'5' * 64}.data",
        f"sha256-{'5' * 64}.state",
        f"sha256-{DIGEST.hex}-{len(CONTENT)}.data",
        f"sha256-{DIGEST.hex}-{len(CONTENT)}.state",
        f"sha256-{DIGEST.hex}-7.data",
        f"sha256-{DIGEST.hex}-7.state",
    ):
        (folder / name).write_bytes(b"left")
    (folder / "notes.txt").write_bytes(b"somebody's")
    restart(store)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert store.size(DIGEST) == len(CONTENT)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_among_the_partial_blobs_stops_no_start(store: Store, make: Callable[[Path], None]) -> None:
    folder = store.root / "partial"
    (folder / f"sha256-{DIGEST.hex}-{len(CONTENT)}.data").write_bytes(CONTENT)
    make(folder / f"sha256-{DIGEST.hex}-{len(CONTENT)}.state")
    make(folder / "1.tmp")
    restart(store)
    assert store.resumable() == []
    store.put(DIGEST, CONTENT)
    assert store.size(DIGEST) == len(CONTENT)


def test_a_fifo_instead_of_the_pins_stops_no_start(store: Store) -> None:
    os.mkfifo(store.root / "pins.json")
    restart(store)
    assert (store.root / "pins.json.damaged").is_fifo()


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
        assert dict(store.verify()) == {digests[0]: True, digests[1]: False, digests[2]: False, digests[3]: False}
    assert [line["event"] for line in lines] == [
        "blob.quarantined",
        "blob.quarantined",
        "blob.unreadable",
        "blob.missing",
    ]
    assert list(store.digests()) == [(digests[0], 5)]
    assert (store.root / "quarantine" / f"sha256-{digests[1].hex}").read_bytes() == b"altereD"
    assert not store.path(digests[1]).exists()
    restart(store)
    assert list(store.verify()) == [(digests[0], True)]


# --- files that are not what was verified ------------------------------------------------------------------------


def cut(path: Path) -> None:
    os.truncate(path, 3)


def overwrite(path: Path) -> None:
    before = path.stat().st_mtime_ns
    while path.stat().st_mtime_ns == before:
        path.write_bytes(b"A" + CONTENT[1:])


def replace(path: Path) -> None:
    path.rename(path.with_name("aside"))
    path.write_bytes(b"A" + CONTENT[1:])
    os.utime(path, ns=(0, path.with_name("aside").stat().st_mtime_ns))
    path.with_name("aside").unlink()


def link(path: Path) -> None:
    path.rename(path.parents[3] / "elsewhere")
    path.symlink_to(path.parents[3] / "elsewhere")


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


HARMS = [cut, overwrite, replace]
STRANGE = [link, make_folder, make_pipe]


def fetch(store: Store) -> None:
    partial = store.partial(BlobKey(DIGEST, len(CONTENT)))
    partial.write(0, CONTENT)
    partial.mark(0, None)
    partial.finish()
    partial.close()


def served(store: Store) -> bytes | None:
    blob = store.open_blob(DIGEST)
    if blob is None:
        return None
    with blob:
        return os.pread(blob.fd, blob.size, 0)


def test_a_stored_blob_is_opened_and_let_go(store: Store) -> None:
    store.put(DIGEST, CONTENT)
    with store.open_blob(DIGEST) or pytest.fail() as blob:
        assert (blob.size, os.pread(blob.fd, 100, 0)) == (len(CONTENT), CONTENT)
        number = blob.fd
        store.remove(DIGEST)
        assert os.pread(blob.fd, 100, 0) == CONTENT
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    with pytest.raises(StoreError, match="closed"):
        blob.fd  # noqa: B018 - the access raises
    assert store.open_blob(DIGEST) is None


def test_a_removed_file_is_fetched_again(store: Store) -> None:
    fetch(store)
    store.path(DIGEST).unlink()
    with capture_logs() as lines:
        assert served(store) is None
    assert [line["event"] for line in lines] == ["blob.missing"]
    assert store.size(DIGEST) is None
    fetch(store)
    assert served(store) == CONTENT
    restart(store)
    assert served(store) == CONTENT


@pytest.mark.parametrize("harm", [*HARMS, *STRANGE])
def test_a_file_that_changes_under_a_running_daemon_is_not_served(store: Store, harm: Callable[[Path], None]) -> None:
    store.put(DIGEST, CONTENT)
    harm(store.path(DIGEST))
    with capture_logs() as lines:
        assert served(store) is None
    assert [line["event"] for line in lines] == ["blob.quarantined"]
    assert os.path.lexists(store.root / "quarantine" / f"sha256-{DIGEST.hex}")
    assert not os.path.lexists(store.path(DIGEST))
    assert list(store.digests()) == []
    store.put(DIGEST, CONTENT)
    assert served(store) == CONTENT


def test_another_error_is_not_taken_for_a_missing_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(DIGEST, CONTENT)

    def fail(path: Path) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="Too many open files"):
        patch.setattr(peer.store, "open_for_reading", fail)
        store.open_blob(DIGEST)
    assert served(store) == CONTENT


@pytest.mark.parametrize("harm", HARMS)
def test_a_file_that_changed_while_the_daemon_was_down_is_hashed_before_it_is_served(
    store: Store, harm: Callable[[Path], None]
) -> None:
    store.put(DIGEST, CONTENT)
    store.close()
    harm(store.path(DIGEST))
    store.open()
    assert (store.size(DIGEST), served(store), len(store.unverified())) == (None, None, 1)
    assert list(store.recheck()) == [(DIGEST, False)]
    assert (len(store.unverified()), store.size(DIGEST)) == (0, None)
    assert (store.root / "quarantine" / f"sha256-{DIGEST.hex}").exists()


def test_a_file_that_was_only_touched_is_served_after_a_recheck(store: Store) -> None:
    store.put(DIGEST, CONTENT)
    store.close()
    os.utime(store.path(DIGEST), ns=(1, 1))
    store.open()
    assert store.size(DIGEST) is None
    assert list(store.recheck()) == [(DIGEST, True)]
    assert served(store) == CONTENT
    restart(store)
    assert (len(store.unverified()), served(store)) == (0, CONTENT)


def test_a_file_that_nobody_verified_is_hashed_before_it_is_served(store: Store) -> None:
    wrong = Digest.of(b"other")
    store.path(DIGEST).write_bytes(CONTENT)
    store.path(wrong).write_bytes(CONTENT)
    restart(store)
    assert (list(store.digests()), len(store.unverified())) == ([], 2)
    assert dict(store.recheck()) == {DIGEST: True, wrong: False}
    assert list(store.digests()) == [(DIGEST, len(CONTENT))]


def test_an_unverified_file_is_replaced_by_a_fetch(store: Store) -> None:
    store.path(DIGEST).write_bytes(b"wrong")
    restart(store)
    recheck = store.recheck()
    fetch(store)
    assert (len(store.unverified()), served(store)) == (0, CONTENT)
    assert list(recheck) == []
    assert served(store) == CONTENT


def test_a_recheck_does_not_touch_what_a_fetch_puts_there_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.path(DIGEST).write_bytes(b"wrong")
    restart(store)
    compare = peer.inspection._stamp_if_right

    def slow(path: Path, digest: Digest, pace: Callable[[int], None]) -> object:
        stamp = compare(path, digest, pace)
        fetch(store)
        return stamp

    monkeypatch.setattr(peer.inspection, "_stamp_if_right", slow)
    assert list(store.recheck()) == []
    assert served(store) == CONTENT


def test_a_blob_that_is_deleted_while_it_is_verified_stays_deleted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(DIGEST, CONTENT)
    compare = peer.inspection._stamp_if_right

    def slow(path: Path, digest: Digest, pace: Callable[[int], None]) -> object:
        stamp = compare(path, digest, pace)
        store.remove(digest)
        return stamp

    monkeypatch.setattr(peer.inspection, "_stamp_if_right", slow)
    assert list(store.verify()) == []
    assert list(store.digests()) == []


def test_a_file_that_is_gone_at_the_start_is_forgotten(store: Store) -> None:
    store.put(DIGEST, CONTENT)
    store.close()
    store.path(DIGEST).unlink()
    store.open()
    assert (list(store.digests()), len(store.unverified())) == ([], 0)
    store.path(DIGEST).write_bytes(CONTENT)
    restart(store)
    assert len(store.unverified()) == 1


@pytest.mark.parametrize("damage", [None, b"", b"no database at all" * 500, "version", "table"], ids=str)
def test_a_lost_index_costs_a_recheck(store: Store, damage: bytes | str | None) -> None:
    store.put(DIGEST, CONTENT)
    store.close()
    path = store.root / "index.sqlite"
    if damage is None:
        path.unlink()
    elif isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA user_version=99" if damage == "version" else "ALTER TABLE blobs DROP COLUMN inode")
            database.commit()
    store.open()
    assert (store.size(DIGEST), len(store.unverified())) == (None, 1)
    assert list(store.recheck()) == [(DIGEST, True)]
    restart(store)
    assert (store.size(DIGEST), len(store.unverified())) == (len(CONTENT), 0)


def test_an_index_that_cannot_be_written_costs_a_recheck_and_no_blob(store: Store) -> None:
    store.close()
    store.open()
    database = store._inventory._index._database
    assert database is not None
    database.execute("PRAGMA query_only=1")
    with capture_logs() as lines:
        store.put(DIGEST, CONTENT)
    assert [line["event"] for line in lines] == ["index.failed"]
    assert served(store) == CONTENT
    restart(store)
    assert list(store.recheck()) == [(DIGEST, True)]


def test_an_index_that_somebody_else_holds_stops_the_start_and_stays(store: Store) -> None:
    store.put(DIGEST, CONTENT)
    store.close()
    with contextlib.closing(sqlite3.connect(store.root / "index.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with patch.object(peer.index, "_BUSY_SECONDS", 0.05), pytest.raises(StoreError, match="locked"):
            store.open()
    store.open()
    assert (store.size(DIGEST), len(store.unverified())) == (len(CONTENT), 0)


def in_own_process(script: str, root: Path) -> subprocess.CompletedProcess[str]:
    """Python code that finds the store's folder in `sys.argv[1]`."""
    packages = {"PYTHONPATH": str(Path(peer.store.__file__).parents[1])}
    command = [sys.executable, "-c", script, str(root)]
    return subprocess.run(command, env=os.environ | packages, capture_output=True, text=True)


def test_a_killed_process_leaves_its_index(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from peer.store import Store; from shoal.digest import Digest\n"
        "store = Store(Path(sys.argv[1])); store.open(); store.put(Digest.of(b'x'), b'x'); os.kill(os.getpid(), 9)"
    )
    assert in_own_process(script, tmp_path).returncode == -9
    store = Store(tmp_path)
    store.open()
    assert (list(store.digests()), len(store.unverified())) == ([(Digest.of(b"x"), 1)], 0)
    store.close()


def test_a_hundred_thousand_blobs_are_compared_at_a_start(store: Store) -> None:
    """In a process that starts, as a node's does: what lives in that of the tests slows its collector of garbage."""
    many = 100_000
    folder = store.root / "blobs" / "sha256"
    digests = [Digest(f"sha256:{number:064x}") for number in range(many)]
    stamps = []
    for digest in digests:
        fd = os.open(f"{folder}/{digest.hex}", os.O_WRONLY | os.O_CREAT)
        stamps.append(Stamp.of(os.fstat(fd)))
        os.close(fd)
    database = store._inventory._index._database
    assert database is not None
    with database:
        database.executemany(
            "INSERT INTO blobs VALUES (?, ?, ?, ?, 0.0, 0.0)",
            [
                (str(digest), size, mtime_ns, str(inode))
                for digest, (size, mtime_ns, inode) in zip(digests, stamps, strict=True)
            ],
        )
    store.close()
    script = (
        "import sys, time; from pathlib import Path; from peer.store import Store\n"
        "store = Store(Path(sys.argv[1])); started = time.process_time(); store.open()\n"
        "print(time.process_time() - started, sum(1 for _ in store.digests()), len(store.unverified()))"
    )
    took, found, unverified = in_own_process(script, store.root).stdout.splitlines()[-1].split()
    assert (int(found), int(unverified)) == (many, 0)
    assert float(took) < 2


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
