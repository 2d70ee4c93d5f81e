"""A store whose disk is small, full, read-only or damaged: every client gets its blob all the same."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.world.client import Got, get
from tests.world.images import random_bytes
from tests.world.nodes import Node, wait_until
from tests.world.origin import REPOSITORY, ScriptedOrigin
from tests.world.programs import require_root

MIB = 1 << 20
LARGE = random_bytes(40 * MIB, "larger than the disk")
MIDDLE = random_bytes(12 * MIB, "fits")
SMALL = random_bytes(MIB, "small")
_TICK_SECONDS = 0.02
"""Of the clock by which the kernel gives files their times: two changes within one are not told apart."""


@dataclass
class Disk:
    """A small file system of its own at `path`."""

    path: Path

    def fill(self) -> Path:
        """Leave no byte of it free; returns the file that takes them."""
        filler = self.path / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(64 << 10)):
                    pass
            except OSError:
                return filler
        raise AssertionError("it has no end")

    @contextmanager
    def taking_nothing(self) -> Iterator[None]:
        """No blob can be written: its folder is read-only, as a whole file system is after an error."""
        folder = str(self.path / "partial")
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def node(tmp_path: Path, origin: ScriptedOrigin, stack: ExitStack) -> Node:
    """Not started yet."""
    return Node(tmp_path / "node", {"docker.io": origin.start(stack)})


@pytest.fixture
def disk(node: Node) -> Iterator[Disk]:
    """What the node's store lies on: 24 MiB."""
    require_root()
    path = node.folder / "store"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)], check=True)
    yield Disk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def pull(node: Node, origin: ScriptedOrigin, content: bytes) -> Got:
    return get(node, f"/v2/{REPOSITORY}/blobs/{origin.put(content)}")


def assert_pulls(node: Node, origin: ScriptedOrigin, *contents: bytes) -> None:
    for content in contents:
        got = pull(node, origin, content)
        assert (got.status, got.brings(content)) == (200, True)
    assert node.is_ready
    assert node.counted("shoal_proxy_cut_responses_total") == 0
    assert "Traceback" not in node.log


def is_stored(node: Node, origin: ScriptedOrigin, content: bytes) -> bool:
    return origin.put(content) in node.stored()


def partials(node: Node) -> list[str]:
    return [path.name for path in (node.folder / "store/partial").iterdir()]


def test_a_layer_that_the_disk_cannot_hold(
    node: Node, disk: Disk, origin: ScriptedOrigin, stack: ExitStack, pool: ThreadPoolExecutor
) -> None:
    node.start(stack)
    for got in pool.map(lambda _: pull(node, origin, LARGE), range(3)):
        assert got.brings(LARGE)
    assert sum(origin.sent.values()) <= 1.5 * 3 * len(LARGE)
    wait_until(lambda: not partials(node), "nothing of it is left")
    assert_pulls(node, origin, MIDDLE)
    wait_until(lambda: is_stored(node, origin, MIDDLE), "what fits is kept")


def test_a_disk_that_is_full_at_the_start_and_has_room_later(
    node: Node, disk: Disk, origin: ScriptedOrigin, stack: ExitStack
) -> None:
    with ExitStack() as first:
        node.start(first)
        assert_pulls(node, origin, SMALL)
        wait_until(lambda: is_stored(node, origin, SMALL), "it is kept")
    filler = disk.fill()
    node.start(stack)
    assert_pulls(node, origin, MIDDLE, SMALL)
    assert node.counted("shoal_store_writable") == 0
    filler.unlink()
    assert_pulls(node, origin, MIDDLE)
    wait_until(lambda: is_stored(node, origin, MIDDLE), "it is kept again")
    assert node.counted("shoal_store_writable") == 1


def test_a_disk_that_somebody_fills_in_the_middle_of_a_pull(
    node: Node, disk: Disk, origin: ScriptedOrigin, stack: ExitStack, pool: ThreadPoolExecutor
) -> None:
    node.start(stack)
    origin.rate = 16 * MIB
    pulling = pool.submit(pull, node, origin, MIDDLE)
    wait_until(lambda: node.received("origin") > 2 * MIB, "the pull is under way")
    disk.fill()
    got = pulling.result()
    assert got.brings(MIDDLE)
    assert got.longest_gap < 5
    wait_until(lambda: not partials(node), "nothing of it is left")


def test_a_disk_that_becomes_read_only_and_is_mended(
    node: Node, disk: Disk, origin: ScriptedOrigin, stack: ExitStack
) -> None:
    node.start(stack)
    assert_pulls(node, origin, SMALL)
    wait_until(lambda: is_stored(node, origin, SMALL), "it is kept")
    with disk.taking_nothing():
        assert_pulls(node, origin, SMALL, MIDDLE)
        assert node.counted("shoal_store_writable") == 0
        assert node.log.count("store.not_writable") == 1
    assert_pulls(node, origin, MIDDLE)
    wait_until(lambda: is_stored(node, origin, MIDDLE), "it is kept again")


def test_a_disk_that_is_read_only_at_the_start(
    node: Node, disk: Disk, origin: ScriptedOrigin, stack: ExitStack
) -> None:
    with ExitStack() as first:
        node.start(first)
        assert_pulls(node, origin, SMALL)
        wait_until(lambda: is_stored(node, origin, SMALL), "it is kept")
    subprocess.run(["mount", "-o", "remount,ro", str(disk.path)], check=True)
    node.start(stack)
    sent = sum(origin.sent.values())
    assert_pulls(node, origin, SMALL)
    assert sum(origin.sent.values()) == sent
    assert_pulls(node, origin, MIDDLE)
    assert node.counted("shoal_store_writable") == 0


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def change(path: Path) -> None:
    written = path.stat().st_mtime
    wait_until(lambda: time.time() > written + _TICK_SECONDS, "the file gets another time")
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"changed")


@pytest.mark.parametrize("harm", [remove, cut, change])
def test_a_stored_blob_that_somebody_harms(
    node: Node, origin: ScriptedOrigin, stack: ExitStack, harm: Callable[[Path], None]
) -> None:
    node.start(stack)
    assert_pulls(node, origin, SMALL)
    wait_until(lambda: is_stored(node, origin, SMALL), "it is kept")
    harm(node.folder / "store/blobs/sha256" / origin.put(SMALL).removeprefix("sha256:"))
    assert_pulls(node, origin, SMALL)
