"""The store: its disk, and whether the daemon can keep there what comes."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from peer.settings import CacheSettings
from shoal.cli.doctor.node import NodeAnswer
from shoal.cli.doctor.subject import Subject
from shoal.cli.finding import Finding
from shoal.units import format_size, parse_amount

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_FULL_BYTES = 1 << 20
"""Less than this is no space at all."""
_FEW_FILES = 1000
_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """A store and the file system that it is in."""

    store: str
    size: int
    """Bytes of the disk."""
    free: int
    """Bytes that a user may still take."""
    files_free: int
    """Files that may still be made; -1 where the file system does not count them."""
    kind: str
    """Of the file system."""
    is_read_only: bool
    is_writable: bool
    """Whether this user may write there."""
    is_owners: bool
    """Whether this user is the daemon's: root, or the store's owner."""
    exists: bool
    is_folder: bool
    """Whether it, or what is to hold it, is a folder."""
    fault: str = ""
    """Why it could not be looked at."""


def judge_disk(facts: DiskFacts, cache: CacheSettings, node: NodeAnswer) -> list[Finding]:
    """What the store's disk means for what is pulled."""
    store = facts.store
    if facts.fault:
        text = f"The disk of the store {store} could not be seen: {facts.fault}."
        return [Finding("store-unseen", "warning", text, "Run `shoal doctor` as root or as the daemon's user.")]
    found = _judge_space(facts, cache)
    if facts.is_read_only:
        text = f"The store {store} is on a disk that is read-only: nothing is kept."
        remedy = "Look at `dmesg` for faults of the disk, mount it writable, or set `peer.store` to another disk."
        found.append(Finding("store-read-only", "error", text, remedy))
    elif not facts.is_folder:
        text = f"The store {store} cannot be made: a file stands in the place of a folder."
        found.append(Finding("store-no-folder", "error", text, "Remove that file, or set `peer.store` to a folder."))
    elif facts.exists and facts.is_owners and not facts.is_writable:
        text = f"The store {store} cannot be written to by its owner."
        found.append(Finding("store-not-writable", "error", text, f"Run `chmod -R u+rwX {store}` as its owner."))
    fault = node.status.store_fault if node.status is not None else ""
    if fault and not found:
        text = f"The daemon could not keep what came last: {fault}."
        remedy = f"Make {store} writable for the daemon's user, free space on its disk, or set another `peer.store`."
        found.append(Finding("store-failing", "error", text, remedy))
    if facts.kind in _IN_MEMORY:
        text = f"The store {store} is on {facts.kind}: it takes memory, and is gone when the machine starts again."
        found.append(Finding("store-in-memory", "warning", text, "Set `peer.store` to a folder on a disk."))
    if not found:
        text = f"The store {store} has {format_size(facts.free)} free of {format_size(facts.size)}."
        found.append(Finding("store-good", "ok", text))
    return found


def _judge_space(facts: DiskFacts, cache: CacheSettings) -> list[Finding]:
    store, kept_free = facts.store, parse_amount(cache.free, facts.size)
    if facts.files_free == 0:
        text = f"The disk of the store {store} has no room for another file, and pulls pass by without being kept."
        remedy = (
            f"Remove files that nobody needs (`df -i {store}` shows how many there are), or set `peer.store` to a file "
            "system with more inodes."
        )
        return [Finding("disk-full", "error", text, remedy)]
    if facts.free < _FULL_BYTES:
        text = f"The disk of the store {store} is full: it has no space, and pulls pass by without being kept."
        remedy = (
            f"Free space on it (`du -xh {store}` shows what the store takes, `shoal gc` what can go), or set "
            "`peer.store` to another disk."
        )
        return [Finding("disk-full", "error", text, remedy)]
    if facts.free < kept_free:
        text = (
            f"The disk of the store {store} has {format_size(facts.free)} free, less than the {format_size(kept_free)} "
            f"that `peer.cache.free` ({cache.free}) leaves to others: the store gives up images, and keeps none."
        )
        remedy = "Free space on the disk, lower `peer.cache.free`, or set `peer.store` to another disk."
        return [Finding("disk-short", "error", text, remedy)]
    if 0 <= facts.files_free < _FEW_FILES:
        text = f"The disk of the store {store} has room for {facts.files_free} files more."
        remedy = "Remove files that nobody needs, or set `peer.store` to a file system with more inodes."
        return [Finding("disk-few-files", "warning", text, remedy)]
    return []


async def examine(subject: Subject) -> list[Finding]:
    """The part of the report."""
    peer = subject.configuration.peer
    node, facts = await asyncio.gather(subject.node(), asyncio.to_thread(_facts, peer.store))
    return judge_disk(facts, peer.cache, node)


def _facts(store: Path) -> DiskFacts:
    try:
        folder = store.absolute()
        while not folder.exists():
            folder = folder.parent
        state, disk = folder.stat(), os.statvfs(folder)
        return DiskFacts(
            str(store),
            disk.f_blocks * disk.f_frsize,
            disk.f_bavail * disk.f_frsize,
            disk.f_favail if disk.f_files else -1,
            _kind(state.st_dev),
            bool(disk.f_flag & os.ST_RDONLY),
            os.access(folder, os.W_OK | os.X_OK),
            os.geteuid() in {0, state.st_uid},
            folder == store.absolute(),
            folder.is_dir(),
        )
    except OSError as error:
        return DiskFacts(str(store), 0, 0, -1, "", False, False, False, False, False, error.strerror or str(error))


def _kind(device: int) -> str:
    """The file system of a device, by proc(5)'s `mountinfo`; empty where it is not told."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    kinds = [line.partition(" - ")[2].split(" ")[0] for line in lines if line.split(" ")[2] == wanted]
    return next(iter(kinds), "")
