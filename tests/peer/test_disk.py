"""Whole writes, files shared by threads, errors by their cause."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from peer import disk
from peer.disk import SharedFile, StoreError, StoreFull, failing_to, read_all, write_all, write_durably


def test_a_full_disk_has_its_own_error() -> None:
    fd = os.open("/dev/full", os.O_RDWR)
    try:
        with pytest.raises(StoreFull, match="cannot keep a piece: No space left"), failing_to("keep a piece"):
            write_all(fd, b"piece", 0)
    finally:
        os.close(fd)


def test_other_failures_are_not_called_full(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file") as caught, failing_to("read"):
        (tmp_path / "absent").read_bytes()
    assert not isinstance(caught.value, StoreFull)


def test_short_writes_and_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, pread, preadv = os.pwrite, os.pread, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, content, offset: pwrite(fd, content[:3], offset))
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, min(length, 3), offset))
    monkeypatch.setattr(os, "preadv", lambda fd, targets, offset: preadv(fd, [targets[0][:3]], offset))
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        write_all(fd, bytearray(b"0123456789"), 2)
        assert read_all(fd, 2, 10) == b"0123456789"
        with pytest.raises(OSError, match="ends at 12, 1 bytes early"):
            read_all(fd, 2, 11)
    finally:
        os.close(fd)


def test_a_failed_replacement_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    write_durably(target, b"old", by_way_of=tmp_path)

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(disk, "sync_data", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_durably(target, b"new", by_way_of=tmp_path)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_shared_file_stays_open_for_those_who_are_in_it(tmp_path: Path) -> None:
    file = SharedFile(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT))
    with file as fd:
        with file:
            file.close()
            file.close()
        os.fstat(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with pytest.raises(StoreError, match="closed"):
        file.fd  # noqa: B018 - the access raises
    with pytest.raises(StoreError, match="closed"), file:
        pass
