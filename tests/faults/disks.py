"""Disks that are full, read-only or damaged, files that others harm, clocks that jump, and power that goes."""

from __future__ import annotations

import os
import selectors
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from bench.processes import PeakMemory
from shoal.digest import Digest
from tests.faults.members import LOOPBACK
from tests.faults.run import Run
from tests.faults.suite import fault
from tests.faults.world import MIB, Shape
from tests.world.client import get
from tests.world.nodes import Node, wait_until
from tests.world.swarm import blob_path

_SMALL_DISK = Shape(nodes=3, store="size=24m", origin_rate=32 * MIB)
_FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
_BLOCK = 4096
_SLOW_CLIENTS = 200
_MEMORY_OF_SLOW_CLIENTS = 100 * MIB


@fault(_SMALL_DISK, short_runs=0)
def layer_is_larger_than_the_disk(run: Run) -> None:
    """It is streamed without being kept; what fits beside it is kept."""
    run.push(run.rng.randint(25 * MIB, 40 * MIB), run.rng.randint(MIB, 4 * MIB))
    run.pull()
    run.wait()
    run.expect(all(node.is_ready for node in run.world.nodes), "nodes are ready")


@fault(_SMALL_DISK)
def disk_becomes_full(run: Run) -> None:
    """By something else, in the middle of a pull."""
    node = run.rng.choice(run.world.nodes)
    ballast = node.folder / "store/ballast"
    run.push(run.rng.randint(4 * MIB, 8 * MIB), run.rng.randint(MIB, 4 * MIB))
    run.pull()
    run.wait_for_progress(run.rng.uniform(0.0, 0.7))
    try:
        _fill(ballast)
        run.wait()
    finally:
        ballast.unlink(missing_ok=True)


def _fill(path: Path) -> None:
    """Take all the room that there is."""
    with path.open("wb") as file:
        try:
            while True:
                file.write(bytes(MIB))
        except OSError:
            pass
        try:
            file.close()
        except OSError:
            pass


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@fault(_SMALL_DISK)
def disk_becomes_read_only(run: Run) -> None:
    """Where partial blobs and finished ones are."""
    run.push(run.rng.randint(2 * MIB, 5 * MIB), run.rng.randint(MIB, 2 * MIB))
    store = run.rng.choice(run.world.nodes).folder / "store"
    with ExitStack() as stack:
        before = run.rng.random() < 0.5
        if before:
            for folder in ("blobs", "partial"):
                stack.enter_context(_read_only(store / folder))
        run.pull()
        run.wait_for_progress(run.rng.uniform(0.1, 0.7))
        if not before:
            for folder in ("blobs", "partial"):
                stack.enter_context(_read_only(store / folder))
        run.wait()


# --- stored blobs -------------------------------------------------------------------------------------------------


def _remove(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _change(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"evil")


def _replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _stored_blob(run: Run, harm: Callable[[Path], None], *, restarts: bool) -> None:
    """It is fetched again, from the swarm where that has it."""
    run.push(run.rng.randint(2 * MIB, 5 * MIB))
    run.pull()
    run.wait()
    node = run.rng.choice(run.world.nodes)
    member = run.world.members[run.world.nodes.index(node)]
    digest = run.image.largest
    path = node.folder / "store/blobs/sha256" / Digest(digest).hex
    wait_until(lambda: path.is_file() and not _has_open(member.pid, path), "it is stored, and nobody reads it")
    if restarts:
        member.end()
    harm(path)
    if restarts:
        member.start()
    run.pull()
    run.wait()
    run.wait_for(lambda: path.is_file() and path.stat().st_size == run.image.sizes[digest])
    if path.is_dir():
        path.rmdir()


def _has_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed just now
            found.append(descriptor.readlink())
    return path in found


for _harm, _name in ((_remove, "removed"), (_cut, "cut"), (_change, "changed"), (_replace_by_a_folder, "a_folder")):
    fault(LOOPBACK, name=f"stored_blob_is_{_name}")(partial(_stored_blob, harm=_harm, restarts=False))
    fault(LOOPBACK, short_runs=0, name=f"stored_blob_is_{_name}_before_a_restart")(
        partial(_stored_blob, harm=_harm, restarts=True)
    )


@fault(Shape(nodes=2, store="ext4"))
def stored_blob_cannot_be_read(run: Run) -> None:
    """The disk below its file has gone: EIO."""
    run.push(run.rng.randint(4 * MIB, 6 * MIB))
    run.pull()
    run.wait()
    node = run.rng.choice(run.world.nodes)
    digest = run.image.largest
    wait_until(lambda: digest in node.stored(), "it is stored")
    disk = run.world.disk_of(node)
    subprocess.run(["sync", "-f", str(node.folder / "store")], check=True)
    path = node.folder / "store/blobs/sha256" / Digest(digest).hex
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    whole = disk.stat().st_size
    saved = disk.with_suffix(".saved")
    shutil.copyfile(disk, saved)
    os.truncate(disk, whole // 8)
    run.may_refuse = True
    try:
        run.pull()
        run.wait()
    finally:
        with saved.open("rb") as source, disk.open("r+b") as target:
            shutil.copyfileobj(source, target)
        saved.unlink()


# --- clocks and power ---------------------------------------------------------------------------------------------


@fault(LOOPBACK)
def clock_jumps(run: Run) -> None:
    """The wall clock of a node that runs goes hours forward or days back."""
    place = run.rng.randrange(len(run.world.nodes))
    node, member = run.world.nodes[place], run.world.members[place]
    if not _FAKETIME.exists():
        run.note("not driven: libfaketime is not installed")
        run.push(MIB)
        return
    clock = node.folder / "clock"
    clock.write_text("+0")
    usual = dict(node.settings)
    member.end()
    node.settings |= {
        "LD_PRELOAD": str(_FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    try:
        member.start()
        run.push(run.rng.randint(3 * MIB, 8 * MIB), run.rng.randint(MIB, 2 * MIB))
        run.pull()
        run.wait_for_progress(run.rng.uniform(0.05, 0.6))
        clock.write_text(run.rng.choice(("+3h", "-2d", "+400d")))
        run.wait()
        run.pull(node)
        run.wait()
    finally:
        node.settings = usual
        member.end()
        member.start()


@fault(LOOPBACK)
def node_is_killed_while_it_stores(run: Run) -> None:
    """Again and again, with many small blobs on their way to their places."""
    run.push(*(run.rng.randint(70_000, 400_000) for _ in range(40)))
    place = run.rng.randrange(len(run.world.nodes))
    node, victim = run.world.nodes[place], run.world.members[place]
    others = [each for each in run.world.nodes if each is not node]
    run.pull(*others)
    for _ in range(3):
        (pull,) = run.pull(node)
        run.harmed(victim)
        run.wait_for_progress(run.rng.uniform(0.0, 0.9), pull)
        victim.kill()
        run.expect(run.wait_for(lambda pull=pull: pull.ended_at is not None), "its client hears of it")  # type: ignore[misc]
        victim.start()


@fault(Shape(nodes=2), short_runs=0)
def many_clients_are_slow(run: Run) -> None:
    """They hold little memory, and who is fast is served beside them."""
    run.push(24 * MIB)
    run.pull()
    run.wait()
    node, member = run.world.nodes[0], run.world.members[0]
    path = blob_path(run.image.largest, run.image.repository)
    assert member.daemon is not None
    before = member.daemon.resident_bytes()
    with ExitStack() as stack:
        peak = stack.enter_context(PeakMemory(member.daemon))
        _open_slow_clients(stack, node, path, run.rng.randint(150, _SLOW_CLIENTS))
        for _ in range(5):
            got = get(node, path)
            run.expect(got.status == 200 and len(got.body) == 24 * MIB, "a fast client gets all of it")
            run.expect(got.seconds < 3.0, f"a fast client took {got.seconds:.1f} s")
    run.note(f"memory {before / MIB:.0f} MiB, at most {peak.peak / MIB:.0f} MiB with slow clients")
    run.expect(peak.peak < before + _MEMORY_OF_SLOW_CLIENTS, f"{(peak.peak - before) / MIB:.0f} MiB more memory")


def _open_slow_clients(stack: ExitStack, node: Node, path: str, count: int) -> None:
    """From addresses of their own; each has read the beginning of its response."""
    selector = stack.enter_context(selectors.DefaultSelector())
    for number in range(count):
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BLOCK)
        client.bind((f"127.0.1.{1 + number % 250}", 0))
        client.connect(("127.0.0.1", node.proxy_port))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        selector.register(client, selectors.EVENT_READ)
    deadline = time.monotonic() + 10.0
    while selector.get_map() and time.monotonic() < deadline:
        for key, _ in selector.select(1.0):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.recv(_BLOCK)
            selector.unregister(key.fileobj)
    assert not selector.get_map(), "all are served"
