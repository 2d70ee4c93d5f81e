"""Partial blobs: pieces in any order, checkpoints, and what is left after a crash."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

import peer.disk
import peer.partial
import peer.watched
from peer.checkpoint import Checkpoint
from peer.disk import StoreError, StoreFull, Tampered
from peer.partial import CHECKPOINT_SECONDS, Partial, PartialFiles
from peer.store import Store
from peer.watched import WatchedFile
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.pieces import GIB, KIB, MIB, PieceLayout, piece_digest, run_of

CONTENT = random.Random(7).randbytes(5 * 256 * KIB - 1000)
DIGEST = Digest.of(CONTENT)
KEY = BlobKey(DIGEST, len(CONTENT))
STEM = f"sha256-{DIGEST.hex}-{len(CONTENT)}"
LAYOUT = PieceLayout.of(len(CONTENT))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store")
    store.open()
    yield store
    store.close()


@pytest.fixture
def partial(store: Store) -> Iterator[Partial]:
    partial = store.partial(KEY)
    yield partial
    partial.close()


def piece(index: int) -> bytes:
    span = LAYOUT.span(index)
    return CONTENT[span.start : span.end]


def fill(partial: Partial, *indexes: int) -> None:
    for index in indexes:
        partial.write(index, piece(index))
        partial.mark(index, piece_digest(piece(index)))


def reopened(store: Store, partial: Partial) -> Partial:
    """The partial blob as the next start of the daemon finds it."""
    partial.close()
    store.close()
    store.open()
    return store.partial(KEY)


# --- a blob from its pieces ----------------------------------------------------------------------------------------


def test_pieces_in_any_order_make_the_blob(store: Store, partial: Partial) -> None:
    fill(partial, 3, 0, 4, 2)
    assert partial.have == 0b11101
    assert store.size(DIGEST) is None
    fill(partial, 1)
    assert partial.read(100, 600 * KIB) == CONTENT[100 : 100 + 600 * KIB]
    assert partial.finish() == store.path(DIGEST)
    assert store.path(DIGEST).read_bytes() == CONTENT
    assert store.size(DIGEST) == len(CONTENT)
    assert list((store.root / "partial").iterdir()) == []


def test_reading_goes_on_after_the_end(partial: Partial) -> None:
    fill(partial, *range(LAYOUT.count))
    partial.finish()
    assert partial.read(0, len(CONTENT)) == CONTENT
    assert os.pread(partial.fd, 10, 5) == CONTENT[5:15]
    partial.close()
    with pytest.raises(StoreError, match="closed"):
        partial.read(0, 1)


def test_an_incomplete_blob_gets_no_name(store: Store, partial: Partial) -> None:
    fill(partial, 0, 1, 2, 3)
    partial.write(4, piece(4))
    with pytest.raises(StoreError, match="not complete"):
        partial.finish()
    assert not store.path(DIGEST).exists()


@pytest.mark.parametrize("content", [b"", b"a", bytes(64 * KIB)], ids=len)
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_small_blobs_of_both_algorithms(store: Store, content: bytes, algorithm: str) -> None:
    hasher = Digest(f"{algorithm}:{'0' * (64 if algorithm == 'sha256' else 128)}").hasher()
    hasher.update(content)
    digest = Digest(f"{algorithm}:{hasher.hexdigest()}")
    partial = store.partial(BlobKey(digest, len(content)))
    partial.write(0, memoryview(content))
    partial.mark(0, None)
    assert partial.finish() == store.root / "blobs" / algorithm / digest.hex
    partial.close()
    assert list(store.digests()) == [(digest, len(content))]
    assert list(store.verify()) == [(digest, True)]


def test_what_is_had_is_not_written_again(partial: Partial) -> None:
    fill(partial, 0)
    partial.write(0, bytes(LAYOUT.length(0)))
    assert partial.read(0, LAYOUT.length(0)) == piece(0)


def test_a_piece_that_is_being_written_again_does_not_count(partial: Partial, monkeypatch: pytest.MonkeyPatch) -> None:
    started, go_on, write_all = threading.Event(), threading.Event(), peer.disk.write_all

    def slow(fd: int, content: memoryview, offset: int) -> None:
        started.set()
        assert go_on.wait(30)
        write_all(fd, content, offset)

    monkeypatch.setattr(peer.watched, "write_all", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(partial.write, 0, bytes(LAYOUT.length(0)))
        assert started.wait(30)
        second = pool.submit(partial.write, 0, piece(0))
        partial.mark(0, None)
        assert partial.have == 0
        go_on.set()
        first.result()
        second.result()
    partial.mark(0, None)
    assert partial.read(0, LAYOUT.length(0)) == piece(0)


@pytest.mark.parametrize(("index", "length"), [(0, 5), (4, 256 * KIB), (5, 256 * KIB), (-1, 256 * KIB)])
def test_content_of_another_length_is_refused(partial: Partial, index: int, length: int) -> None:
    with pytest.raises(ValueError, match="piece"):
        partial.write(index, bytes(length))


def test_marks_that_make_no_sense_are_refused(partial: Partial) -> None:
    with pytest.raises(ValueError, match="piece 5 of 5"):
        partial.mark(5, None)
    with pytest.raises(ValueError, match="3 bytes"):
        partial.mark(0, b"abc")


def test_reading_beyond_the_end_is_refused(partial: Partial) -> None:
    with pytest.raises(StoreError, match="ends at"):
        partial.read(len(CONTENT) - 1, 2)


def test_a_full_disk_is_told_apart(tmp_path: Path) -> None:
    file = WatchedFile(os.open("/dev/full", os.O_RDWR), "a blob")
    files = PartialFiles(tmp_path / "data", tmp_path / "state", tmp_path / "pieces", tmp_path / "blob")
    partial = Partial(files, file, Checkpoint(DIGEST, LAYOUT, 0, {}, 0), lambda stored: None)
    with pytest.raises(StoreFull):
        partial.write(0, piece(0))
    partial.close()


# --- who has it open -----------------------------------------------------------------------------------------------


def test_a_blob_is_written_by_one_at_a_time(store: Store, partial: Partial) -> None:
    with pytest.raises(StoreError, match="already"):
        store.partial(KEY)
    partial.close()
    store.partial(KEY).close()


def test_a_failed_download_leaves_nothing(store: Store, partial: Partial) -> None:
    fill(partial, 0, 1)
    partial.checkpoint()
    fill(partial, 2)
    partial.abort()
    assert list((store.root / "partial").iterdir()) == []
    assert partial.read(0, 10) == CONTENT[:10]
    with pytest.raises(StoreError, match="not partial any more"):
        partial.write(3, piece(3))
    partial.checkpoint()
    again = store.partial(KEY)
    partial.close()
    partial.abort()
    assert again.have == 0
    assert len(list((store.root / "partial").iterdir())) == 1
    again.close()


def test_a_finished_blob_is_beyond_abort_and_discard(store: Store, partial: Partial) -> None:
    fill(partial, *range(LAYOUT.count))
    partial.finish()
    partial.abort()
    with pytest.raises(StoreError, match="not partial any more"):
        partial.discard(1)
    with pytest.raises(StoreError, match="not partial any more"):
        partial.finish()
    partial.write(0, bytes(LAYOUT.length(0)))
    assert store.path(DIGEST).read_bytes() == CONTENT


def test_closing_does_not_wait_for_a_checkpoint_but_the_next_owner_does(
    store: Store, partial: Partial, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow(fd: int) -> None:
        started.set()
        assert go_on.wait(30)
        os.fdatasync(fd)

    monkeypatch.setattr(peer.watched, "sync_data", slow)
    fill(partial, 0)
    with ThreadPoolExecutor(1) as pool:
        checkpoint = pool.submit(partial.checkpoint)
        assert started.wait(30)
        partial.close()
        with pytest.raises(StoreError, match="already"):
            store.partial(KEY)
        go_on.set()
        checkpoint.result()
    again = store.partial(KEY)
    assert again.have == 1
    again.close()


def test_two_sizes_of_one_digest_are_two_blobs(store: Store, partial: Partial) -> None:
    other = store.partial(BlobKey(DIGEST, 70_000))
    assert (partial.key, other.key) == (KEY, BlobKey(DIGEST, 70_000))
    other.write(0, b"x" * 70_000)
    other.mark(0, None)
    fill(partial, *range(LAYOUT.count))
    partial.checkpoint()
    other.checkpoint()
    assert set(store.resumable()) == set()
    partial.finish()
    assert other.read(0, 3) == b"xxx"
    other.abort()
    other.close()
    assert store.path(DIGEST).read_bytes() == CONTENT
    assert list((store.root / "partial").iterdir()) == []


def test_each_size_is_resumed_by_itself(store: Store, partial: Partial) -> None:
    other = store.partial(BlobKey(DIGEST, 70_000))
    other.write(0, b"x" * 70_000)
    other.mark(0, None)
    other.checkpoint()
    fill(partial, 2)
    partial.checkpoint()
    other.close()
    again = reopened(store, partial)
    assert again.have == 0b100
    assert store.resumable() == [BlobKey(DIGEST, 70_000)]
    again.close()


def left_without_a_checkpoint(partial: Partial, *indices: int) -> None:
    """What a process leaves that was killed before the first checkpoint."""
    for index in indices:
        span = LAYOUT.span(index)
        content = CONTENT[span.start : span.end]
        partial.write(index, content, piece_digest(content))
        partial.mark(index, piece_digest(content))
    partial.close()


def test_a_killed_process_loses_no_piece_that_was_written(store: Store, partial: Partial) -> None:
    left_without_a_checkpoint(partial, 0, 2)
    store.close()
    store.open()
    again = store.partial(KEY)
    assert again.have == 0b101
    fill(again, *range(LAYOUT.count))
    again.finish()
    again.close()
    assert store.path(DIGEST).read_bytes() == CONTENT
    assert list((store.root / "partial").iterdir()) == []


def test_pieces_after_the_checkpoint_are_found_besides_those_before_it(store: Store, partial: Partial) -> None:
    fill(partial, 1)
    partial.checkpoint()
    left_without_a_checkpoint(partial, 2)
    again = store.partial(KEY)
    assert again.have == 0b110
    again.close()


def test_a_piece_that_was_discarded_is_not_found_again(store: Store, partial: Partial) -> None:
    span = LAYOUT.span(1)
    content = bytes(span.length)
    partial.write(1, content, piece_digest(content))
    partial.mark(1, piece_digest(content))
    partial.discard(0b10)
    left_without_a_checkpoint(partial, 0)
    again = store.partial(KEY)
    assert again.have == 0b1
    again.close()


@pytest.mark.parametrize("place", [0, 17, 24, 39])
def test_damage_to_the_journal_costs_the_piece_that_it_hits(store: Store, partial: Partial, place: int) -> None:
    left_without_a_checkpoint(partial, 0, 1, 2)
    (journal,) = (store.root / "partial").glob("*.pieces")
    content = bytearray(journal.read_bytes())
    content[place] ^= 1
    journal.write_bytes(content)
    again = store.partial(KEY)
    assert again.have == 0b111 & ~(1 << place // 20)
    again.close()


def test_data_that_a_power_loss_took_is_not_believed_for_the_journal(store: Store, partial: Partial) -> None:
    left_without_a_checkpoint(partial, 0, 1)
    (data,) = (store.root / "partial").glob("*.data")
    with data.open("r+b") as file:
        file.write(bytes(LAYOUT.piece_size))
    again = store.partial(KEY)
    assert again.have == 0b10
    again.close()


def test_a_journal_that_is_no_file_costs_pieces_and_nothing_else(store: Store, partial: Partial) -> None:
    left_without_a_checkpoint(partial, 0)
    (journal,) = (store.root / "partial").glob("*.pieces")
    journal.unlink()
    os.mkfifo(journal)
    again = store.partial(KEY)
    assert again.have == 0
    left_without_a_checkpoint(again, 1)


def test_closing_gives_descriptor_and_name_back_whoever_holds_a_reference(store: Store) -> None:
    holders = [store.partial(KEY)]
    number = holders[0].fd
    for _ in range(3):
        holders[-1].close()
        holders.append(store.partial(KEY))
        assert holders[-1].fd == number
    for closed in holders[:-1]:
        with pytest.raises(StoreError, match="closed"):
            closed.check()
        with pytest.raises(StoreError, match="closed"):
            closed.read(0, 1)
    holders[-1].close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_closing_does_not_wait_for_a_reader(store: Store, partial: Partial, monkeypatch: pytest.MonkeyPatch) -> None:
    started, go_on, read_all = threading.Event(), threading.Event(), peer.disk.read_all

    def slow(fd: int, offset: int, length: int) -> bytes:
        started.set()
        assert go_on.wait(30)
        return read_all(fd, offset, length)

    fill(partial, 0)
    monkeypatch.setattr(peer.watched, "read_all", slow)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(partial.read, 0, 5)
        assert started.wait(30)
        partial.close()
        store.partial(KEY).close()
        go_on.set()
        reading.exception()


def test_the_name_is_not_given_out_while_a_write_still_runs(
    store: Store, partial: Partial, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go_on, write_all = threading.Event(), threading.Event(), peer.disk.write_all

    def slow(fd: int, content: memoryview, offset: int) -> None:
        started.set()
        assert go_on.wait(30)
        write_all(fd, content, offset)

    monkeypatch.setattr(peer.watched, "write_all", slow)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(partial.write, 0, piece(0))
        assert started.wait(30)
        partial.close()
        with pytest.raises(StoreError, match="already"):
            store.partial(KEY)
        go_on.set()
        writing.result()
    store.partial(KEY).close()


@pytest.mark.parametrize("operation", ["write", "checkpoint", "finish"])
def test_after_a_failure_the_blob_can_be_opened_again_at_once(
    store: Store, partial: Partial, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    fill(partial, *range(LAYOUT.count - (operation == "write")))
    with monkeypatch.context() as patch:
        patch.setattr(peer.watched, "write_all", fail)
        patch.setattr(peer.watched, "sync_data", fail)
        with pytest.raises(StoreFull):
            partial.write(4, piece(4)) if operation == "write" else getattr(partial, operation)()
    partial.close()
    again = store.partial(KEY)
    fill(again, *range(LAYOUT.count))
    again.finish()
    again.close()


# --- checkpoints ---------------------------------------------------------------------------------------------------


def test_a_restart_goes_on_from_the_checkpoint(store: Store, partial: Partial) -> None:
    fill(partial, 0, 3)
    partial.write(1, piece(1))
    partial.mark(1, None)
    partial.checkpoint()
    again = reopened(store, partial)
    assert again.have == 0b01011
    assert again.table == {0: piece_digest(piece(0)), 3: piece_digest(piece(3))}
    fill(again, 2, 4)
    again.finish()
    again.close()
    assert list(store.verify()) == [(DIGEST, True)]


def test_without_a_checkpoint_there_is_nothing_but_the_data_file(store: Store, partial: Partial) -> None:
    fill(partial, 0)
    assert [path.suffix for path in (store.root / "partial").iterdir()] == [".data"]
    again = reopened(store, partial)
    assert again.have == 0
    again.close()


def test_discarded_pieces_are_forgotten_with_their_digests(store: Store, partial: Partial) -> None:
    fill(partial, 0, 1, 2)
    partial.checkpoint()
    partial.discard(0b110)
    assert (partial.have, list(partial.table)) == (0b001, [0])
    partial.write(1, bytes(LAYOUT.length(1)))
    again = reopened(store, partial)
    assert again.have == 0b001
    again.close()


def test_a_failed_sync_is_not_tried_again(partial: Partial, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    fill(partial, *range(LAYOUT.count))
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="Input/output"):
        patch.setattr(peer.watched, "sync_data", fail)
        partial.checkpoint()
    with pytest.raises(StoreError, match="earlier sync"):
        partial.checkpoint()
    with pytest.raises(StoreError, match="earlier sync"):
        partial.finish()
    partial.abort()


def test_a_checkpoint_is_due_after_some_seconds_with_new_pieces(partial: Partial) -> None:
    assert not partial.due(0)
    fill(partial, 0)
    assert not partial.due(100)
    assert not partial.due(100 + CHECKPOINT_SECONDS - 0.1)
    assert partial.due(100 + CHECKPOINT_SECONDS)
    assert not partial.due(100 + 2 * CHECKPOINT_SECONDS)
    fill(partial, 1)
    assert not partial.due(200)
    partial.checkpoint()
    assert not partial.due(300)
    fill(partial, 2, 3, 4)
    assert not partial.due(400)
    assert not partial.due(400 + CHECKPOINT_SECONDS)


def test_a_checkpoint_is_due_after_some_bytes(store: Store) -> None:
    partial = store.partial(BlobKey(DIGEST, GIB))
    for index in range(63):
        partial.mark(index, None)
    assert not partial.due(0)
    partial.mark(63, None)
    assert partial.due(0)
    partial.close()


def test_a_checkpoint_that_failed_is_due_again(partial: Partial, store: Store) -> None:
    fill(partial, 0)
    state = store.root / "partial" / f"{STEM}.state"
    state.mkdir()
    assert not partial.due(0)
    assert partial.due(CHECKPOINT_SECONDS)
    with pytest.raises(StoreError, match="checkpoint"):
        partial.checkpoint()
    assert not partial.due(10)
    assert partial.due(10 + CHECKPOINT_SECONDS)
    state.rmdir()


def test_a_huge_blob_takes_neither_disk_nor_memory(store: Store) -> None:
    tracemalloc.start()
    try:
        partial = store.partial(BlobKey(DIGEST, 10 * GIB))
        content = bytes(partial.layout.piece_size)
        for index in (0, partial.layout.last):
            partial.write(index, content)
            partial.mark(index, bytes(16))
        partial.checkpoint()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert os.fstat(partial.fd).st_blocks * 512 <= 3 * partial.layout.piece_size
    assert peak <= partial.layout.piece_size + MIB
    assert store.resumable() == []
    partial.close()
    assert store.resumable() == [BlobKey(DIGEST, 10 * GIB)]


def test_marking_goes_on_during_checkpoints(store: Store) -> None:
    content = random.Random(1).randbytes(40 * MIB)
    digest = Digest.of(content)
    partial = store.partial(BlobKey(digest, len(content)))
    layout, stop = partial.layout, threading.Event()

    def save() -> None:
        while not stop.is_set():
            partial.checkpoint()

    with ThreadPoolExecutor(3) as pool:
        saving = pool.submit(save)
        order = random.Random(2).sample(range(layout.count), layout.count)
        spans = {index: layout.span(index) for index in order}
        writes = {i: pool.submit(partial.write, i, content[spans[i].start : spans[i].end]) for i in order[:-1]}
        for index, write in writes.items():
            write.result()
            partial.mark(index, piece_digest(content[spans[index].start : spans[index].end]))
        stop.set()
        saving.result()
    partial.checkpoint()
    partial.close()
    again = store.partial(BlobKey(digest, len(content)))
    assert again.have == layout.all & ~(1 << order[-1])
    assert len(again.table) == layout.count - 1
    again.close()


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b"\xff" * (5 << 20)], ids=len)
def test_a_damaged_checkpoint_is_dropped_with_one_line(store: Store, partial: Partial, damage: bytes) -> None:
    fill(partial, 0)
    partial.checkpoint()
    (store.root / "partial" / f"{STEM}.state").write_bytes(damage)
    with capture_logs() as lines:
        again = reopened(store, partial)
    assert again.have == 0
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["partial.discarded"]
    assert again.read(0, 10) == bytes(10)
    again.close()


def test_a_checkpoint_of_another_size_or_blob_is_dropped(store: Store, partial: Partial) -> None:
    fill(partial, 0)
    partial.checkpoint()
    partial.close()
    stranger = Digest.of(b"stranger")
    for suffix in ("data", "state"):
        source = store.root / "partial" / f"{STEM}.{suffix}"
        shutil.copy(source, source.with_name(f"sha256-{stranger.hex}-{len(CONTENT)}.{suffix}"))
        source.rename(source.with_name(f"sha256-{DIGEST.hex}-{len(CONTENT) - 1}.{suffix}"))
    assert store.resumable() == []
    assert list((store.root / "partial").iterdir()) == []


def test_data_of_another_length_voids_the_checkpoint(store: Store, partial: Partial) -> None:
    fill(partial, 0)
    partial.checkpoint()
    os.ftruncate(partial.fd, 300 * KIB)
    again = reopened(store, partial)
    assert again.have == 0
    again.close()


def test_a_crash_after_the_checkpoint_costs_only_what_cannot_be_proven(store: Store, partial: Partial) -> None:
    fill(partial, 0, 3)
    partial.write(1, piece(1))
    partial.mark(1, None)
    partial.checkpoint()
    fill(partial, 2)
    again = reopened(store, partial)
    assert again.have == 0b01001
    again.close()


def test_data_that_changed_while_the_daemon_was_down_is_noticed(store: Store, partial: Partial) -> None:
    fill(partial, 0, 1, 2)
    partial.checkpoint()
    change(store.root / "partial" / f"{STEM}.data", LAYOUT.span(1).start, b"wrong")
    again = reopened(store, partial)
    assert (again.have, sorted(again.table)) == (0b00101, [0, 2])
    fill(again, 1, 3, 4)
    again.finish()
    again.close()
    assert list(store.verify()) == [(DIGEST, True)]


def test_opening_again_does_not_touch_the_data(store: Store, partial: Partial) -> None:
    fill(partial, 0)
    partial.mark(1, None)
    partial.checkpoint()
    for _ in range(2):
        partial = reopened(store, partial)
        assert partial.have == 0b00011
    partial.close()


# --- others who change the file ------------------------------------------------------------------------------------


def change(path: Path, offset: int, content: bytes) -> None:
    """Write to a file until its time of change is another one, which takes a tick of the kernel's clock at most."""
    before = path.stat().st_mtime_ns
    with path.open("r+b") as file:
        while path.stat().st_mtime_ns == before:
            os.pwrite(file.fileno(), content, offset)


def written_by_others(data: Path) -> None:
    change(data, 300 * KIB, b"wrong")


def cut_short(data: Path) -> None:
    os.truncate(data, 300 * KIB)


@pytest.fixture
def data(store: Store) -> Path:
    return store.root / "partial" / f"{STEM}.data"


@pytest.mark.parametrize("harm", [written_by_others, cut_short])
def test_a_file_that_others_changed_is_used_no_more(
    store: Store, partial: Partial, data: Path, harm: Callable[[Path], None]
) -> None:
    fill(partial, *range(LAYOUT.count))
    partial.check()
    harm(data)
    for use in (
        partial.check,
        partial.finish,
        partial.checkpoint,
        lambda: partial.write(0, piece(0)),
        lambda: partial.read(0, 10),
        lambda: partial.read_into(0, memoryview(bytearray(10))),
    ):
        with pytest.raises(Tampered, match="somebody else changed"):
            use()
    assert not store.path(DIGEST).exists()
    partial.abort()
    partial.close()
    assert list((store.root / "partial").iterdir()) == []
    store.partial(KEY).close()


@pytest.mark.parametrize(
    "use",
    [
        lambda partial: partial.write(4, piece(4)),
        lambda partial: partial.read(0, 10),
        lambda partial: partial.read_into(0, memoryview(bytearray(10))),
        lambda partial: partial.checkpoint(),
        lambda partial: partial.check(),
    ],
    ids=["write", "read", "read_into", "checkpoint", "check"],
)
@pytest.mark.parametrize("harm", [written_by_others, cut_short])
def test_each_use_notices_by_itself(
    partial: Partial, data: Path, use: Callable[[Partial], object], harm: Callable[[Path], None]
) -> None:
    fill(partial, 0, 1)
    harm(data)
    with pytest.raises(Tampered):
        use(partial)


def test_own_writes_and_syncs_are_no_tampering(partial: Partial) -> None:
    with ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(fill, partial, index) for index in range(LAYOUT.count)]
        while not all(write.done() for write in writes):
            partial.check()
            partial.checkpoint()
    partial.finish()
    partial.check()


@pytest.mark.parametrize("index", [0, LAYOUT.count - 1])
def test_the_last_check_reads_the_ends_back(store: Store, partial: Partial, data: Path, index: int) -> None:
    fill(partial, *range(LAYOUT.count))
    status = data.stat()
    change(data, LAYOUT.span(index).start, b"wrong")
    os.utime(data, ns=(status.st_atime_ns, status.st_mtime_ns))
    partial.check()
    with pytest.raises(Tampered):
        partial.finish()
    assert not store.path(DIGEST).exists()


def test_the_last_check_reads_a_bounded_part(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def noted(fd: int, offset: int, length: int) -> bytes:
        read.append(offset)
        return peer.disk.read_all(fd, offset, length)

    monkeypatch.setattr(peer.watched, "read_all", noted)
    for size, pieces in ((40 * MIB, 8), (GIB, 8), (2 * GIB, 4), (17 * GIB, 2)):
        read.clear()
        partial = store.partial(BlobKey(DIGEST, size))
        content = piece_digest(bytes(partial.layout.piece_size))
        for index in range(partial.layout.count):
            partial.mark(index, content if index != partial.layout.last else None)
        partial.mark(partial.layout.last, piece_digest(bytes(partial.layout.length(partial.layout.last))))
        partial.finish()
        partial.close()
        assert len(read) == pieces
        assert {0, partial.layout.span(partial.layout.last).start} <= set(read)
        store.remove(DIGEST)


def test_a_file_that_was_replaced_gets_no_name(store: Store, partial: Partial, data: Path) -> None:
    fill(partial, *range(LAYOUT.count))
    data.unlink()
    data.write_bytes(bytes(len(CONTENT)))
    with pytest.raises(Tampered):
        partial.finish()
    assert not store.path(DIGEST).exists()


def test_a_file_that_was_removed_gets_no_name(store: Store, partial: Partial, data: Path) -> None:
    fill(partial, *range(LAYOUT.count))
    data.unlink()
    with pytest.raises(Tampered):
        partial.finish()
    partial.abort()
    assert store.size(DIGEST) is None


# --- a process that is killed --------------------------------------------------------------------------------------

_WRITER = """
import signal
import sys
from pathlib import Path
from peer.store import Store
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.pieces import piece_digest

store = Store(Path(sys.argv[1]))
store.open()
partial = store.partial(BlobKey(Digest(sys.argv[2]), int(sys.argv[3])))
content = sys.stdin.buffer.read()
for index in reversed(range(partial.layout.count)):
    span = partial.layout.span(index)
    partial.write(index, content[span.start : span.end])
    partial.mark(index, piece_digest(content[span.start : span.end]))
    if index % 3 == 0 and index:
        partial.checkpoint()
        print(partial.have, file=sys.stderr, flush=True)
partial.finish()
signal.pause()
"""


@pytest.mark.parametrize("checkpoints", [0, 1, 4, 13])
def test_a_killed_process_loses_only_what_came_after_the_checkpoint(tmp_path: Path, checkpoints: int) -> None:
    content = random.Random(3).randbytes(10 * MIB)
    digest = Digest.of(content)
    arguments = [sys.executable, "-c", _WRITER, str(tmp_path), digest, str(len(content))]
    packages = {"PYTHONPATH": str(Path(peer.partial.__file__).parents[1])}
    seen = 0
    with subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | packages,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(content)
        process.stdin.close()
        for _ in range(checkpoints):
            seen = int(process.stderr.readline())
        process.kill()
    store = Store(tmp_path)
    store.open()
    if store.size(digest) is None:
        partial = store.partial(BlobKey(digest, len(content)))
        assert partial.have & seen == seen
        for index in range(partial.layout.count):
            span = partial.layout.span(index)
            if partial.have >> index & 1:
                assert partial.read(span.start, span.length) == content[span.start : span.end]
                assert partial.table[index] == piece_digest(content[span.start : span.end])
        assert partial.have & run_of(0, 1) == 0
        partial.close()
    assert all(good for _, good in (*store.recheck(), *store.verify()))
    store.close()
