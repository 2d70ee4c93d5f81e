"""Crashes at every instant: the process dies at any system call, or the power goes and takes what was not synced."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import peer.partial
import peer.watched
from peer.checkpoint import Checkpoint
from peer.disk import write_durably
from peer.partial import Partial
from peer.store import Store
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.pieces import KIB, PieceLayout, iterate, piece_digest

CONTENT = random.Random(11).randbytes(4 * 256 * KIB + 77)
DIGEST = Digest.of(CONTENT)
KEY = BlobKey(DIGEST, len(CONTENT))
LAYOUT = PieceLayout.of(len(CONTENT))
PIECES = st.integers(0, LAYOUT.count - 1)


class Killed(BaseException):
    """The process is dead: nothing catches this."""


class Plug:
    """Lets so many system calls through that change the disk; then each of them is the death of the process."""

    CALLS = ("open", "pwrite", "ftruncate", "fsync", "fdatasync", "rename", "unlink", "mkdir")

    def __init__(self, left: int) -> None:
        self.left = left

    def guard(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self.left <= 0:
                raise Killed
            self.left -= 1
            return call(*args, **kwargs)

        return guarded


def piece(index: int) -> bytes:
    span = LAYOUT.span(index)
    return CONTENT[span.start : span.end]


def wrong(index: int, version: int) -> bytes:
    return random.Random(f"{index} {version}").randbytes(8) * (LAYOUT.length(index) // 8) + bytes(
        LAYOUT.length(index) % 8
    )


def a_life(store: Store, opened: list[Partial]) -> None:
    """Everything that changes the disk."""
    store.open()
    store.put(Digest.of(b"small"), b"small")
    partial = store.partial(KEY)
    opened.append(partial)
    partial.write(0, wrong(0, 0))
    partial.mark(0, piece_digest(wrong(0, 0)))
    partial.write(1, piece(1))
    partial.mark(1, piece_digest(piece(1)))
    partial.checkpoint()
    partial.discard(0b11)
    for index in range(LAYOUT.count):
        partial.write(index, piece(index))
        partial.mark(index, piece_digest(piece(index)))
        if index == 2:
            partial.checkpoint()
    partial.finish()
    store.remove(Digest.of(b"small"))
    aborted = store.partial(BlobKey(Digest.of(b"aborted"), 7))
    opened.append(aborted)
    aborted.write(0, b"aborted")
    aborted.mark(0, None)
    aborted.checkpoint()
    aborted.abort()


def test_the_process_may_die_at_any_system_call(tmp_path: Path) -> None:
    lived, death = False, 0
    while not lived:
        root, plug, opened = tmp_path / str(death), Plug(death), list[Partial]()
        store = Store(root)
        with pytest.MonkeyPatch.context() as patched:
            for name in Plug.CALLS:
                patched.setattr(os, name, plug.guard(getattr(os, name)))
            try:
                a_life(store, opened)
                lived = True
            except Killed:
                death += 1
        for partial in opened:
            partial.close()
        store.close()
        look_after(root)
    assert death > 40


def look_after(root: Path) -> None:
    store = Store(root)
    store.open()
    assert all(good for _, good in store.recheck())
    assert all(good for _, good in store.verify())
    assert not list((root / "partial").glob("*.tmp"))
    for key in store.resumable():
        partial = store.partial(key)
        for index in iterate(partial.have):
            span = partial.layout.span(index)
            assert piece_digest(partial.read(span.start, span.length)) == partial.table.get(
                index, piece_digest(b"aborted")
            )
        partial.close()
    store.close()


class PowerLoss(RuleBasedStateMachine):
    """A disk that keeps what was synced, and of the rest whatever it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.folder.name) / "store")
        self.patches: list[Any] = [
            patch.object(peer.watched, "sync_data", self.sync),
            patch.object(peer.partial, "write_durably", self.claim),
            patch("peer.partial.sync_folder"),
            patch("peer.disk.sync_folder"),
            patch("peer.disk.sync_data"),
        ]
        for each in self.patches:
            each.start()
        self.partial: Partial
        self.synced = bytes(len(CONTENT))
        self.claimed = 0
        self.written: dict[int, bytes] = {}
        self.marked: dict[int, bytes] = {}
        self.version = 0

    @initialize()
    def begin(self) -> None:
        self.store.open()
        self.partial = self.store.partial(KEY)

    def sync(self, fd: int) -> None:
        self.synced = os.pread(fd, len(CONTENT), 0)

    def claim(self, target: Path, content: bytes, by_way_of: Path) -> None:
        write_durably(target, content, by_way_of)
        self.claimed = Checkpoint.decode(content).have

    @rule(index=PIECES, right=st.booleans())
    def write(self, index: int, right: bool) -> None:
        self.version += 1
        content = piece(index) if right else wrong(index, self.version)
        self.partial.write(index, content)
        if not self.partial.have >> index & 1:
            self.written[index] = content

    @precondition(lambda self: self.written)
    @rule(data=st.data())
    def mark(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.written)))
        self.marked[index] = self.written.pop(index)
        self.partial.mark(index, piece_digest(self.marked[index]))

    @rule(pieces=st.integers(0, LAYOUT.all))
    def discard(self, pieces: int) -> None:
        self.partial.discard(pieces)

    @rule()
    def checkpoint(self) -> None:
        self.partial.checkpoint()
        assert self.claimed == self.partial.have

    @rule()
    def kill(self) -> None:
        self.restart()

    @rule(index=PIECES)
    def kill_in_a_write(self, index: int) -> None:
        def half(fd: int, content: memoryview, offset: int) -> None:
            os.pwrite(fd, content[: len(content) // 2], offset)
            raise Killed

        self.version += 1
        with patch.object(peer.watched, "write_all", half):
            try:
                self.partial.write(index, wrong(index, self.version))
            except Killed:
                self.restart()

    @rule(data=st.data())
    def lose_power(self, data: st.DataObject) -> None:
        current = os.pread(self.partial.fd, len(CONTENT), 0)
        for index in range(LAYOUT.count):
            span = LAYOUT.span(index)
            old, new = self.synced[span.start : span.end], current[span.start : span.end]
            if old != new:
                middle = span.length // 2
                left = data.draw(st.sampled_from([old, new, old[:middle] + new[middle:], new[:middle] + old[middle:]]))
                os.pwrite(self.partial.fd, left, span.start)
        self.restart()

    def restart(self) -> None:
        claimed = self.claimed
        self.partial.close()
        self.store.close()
        self.store.open()
        assert set(self.store.resumable()) <= {KEY}
        self.partial = self.store.partial(KEY)
        assert self.partial.have == claimed
        if not claimed:
            self.synced = os.pread(self.partial.fd, len(CONTENT), 0)
        self.written.clear()

    @precondition(lambda self: self.partial.have == LAYOUT.all)
    @rule()
    def finish(self) -> None:
        if all(self.marked[index] == piece(index) for index in range(LAYOUT.count)):
            path = self.partial.finish()
            assert path.read_bytes() == self.synced == CONTENT
            self.store.remove(DIGEST)
        else:
            self.partial.abort()
        self.partial.close()
        self.claimed = 0
        self.partial = self.store.partial(KEY)
        assert self.partial.have == 0
        self.synced = bytes(len(CONTENT))
        self.written.clear()

    @rule()
    def fill_rightly(self) -> None:
        for index in range(LAYOUT.count):
            if self.partial.have >> index & 1 and self.marked[index] != piece(index):
                self.partial.discard(1 << index)
            self.written.pop(index, None)
            self.partial.write(index, piece(index))
            self.marked[index] = piece(index)
            self.partial.mark(index, piece_digest(piece(index)))

    @invariant()
    def what_is_had_reads_back(self) -> None:
        if not hasattr(self, "partial"):
            return
        for index in iterate(self.partial.have):
            span = LAYOUT.span(index)
            content = self.partial.read(span.start, span.length)
            assert content == self.marked[index]
            assert self.partial.table[index] == piece_digest(content)

    def teardown(self) -> None:
        self.partial.close()
        self.store.close()
        for each in self.patches:
            each.stop()
        self.folder.cleanup()


TestPowerLoss = PowerLoss.TestCase
TestPowerLoss.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
