"""What is to be gone after a fault, and what is to be right: descriptors, threads, leases, files, logs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.faults.world import World

_SETTLE_SECONDS = 15.0
"""A range's blob that nobody reads is put away after 10 s; connections to origins are kept for a while."""
_POLL_SECONDS = 0.1
_SPARE_DESCRIPTORS, _SPARE_THREADS = 24, 8
"""More than at the start: connections to neighbours and origins that are kept, threads that were not needed before."""


@dataclass
class Watch:
    """Looks at a world's processes and stores, run after run."""

    world: World
    _descriptors: dict[int, int] = field(default_factory=dict)
    _threads: dict[int, int] = field(default_factory=dict)
    _read: dict[Path, int] = field(default_factory=dict)
    """Bytes of logs that were looked at."""
    _hashed: dict[Path, tuple[int, int, int]] = field(default_factory=dict)

    def begin(self) -> None:
        """Remember what there is of processes that are new."""
        for member in self.world.processes:
            self._descriptors.setdefault(member.pid, _descriptors(member.pid))
            self._threads.setdefault(member.pid, _threads(member.pid))

    def complaints(self) -> list[str]:
        """After all pulls of a run have ended: what is left over or wrong. Waits for what ends by itself."""
        found: list[str] = []
        deadline = time.monotonic() + _SETTLE_SECONDS
        for name, count in self._counts():
            while (excess := count()) and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
            if excess:
                found.append(f"{name}: {excess:g} too many")
        found += [f"{member.name} is gone" for member in self.world.processes if not member.is_running]
        return [*found, *self.wrong_files(), *self.tracebacks()]

    def wrong_files(self) -> Iterator[str]:
        """Blobs that do not hash to their names, temporary files, and partial blobs of which nothing is known."""
        for node in self.world.nodes:
            store = node.folder / "store"
            for path in store.glob("blobs/*/*"):
                stat = path.stat()
                stamp = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
                if self._hashed.get(path) != stamp:
                    self._hashed[path] = stamp
                    with path.open("rb") as file:
                        if hashlib.file_digest(file, path.parent.name).hexdigest() != path.name:
                            yield f"wrong blob {path.relative_to(self.world.folder)}"
            for path in store.rglob("*.tmp"):
                yield f"temporary file {path.relative_to(self.world.folder)}"
            for path in store.glob("partial/*.data"):
                if not path.with_suffix(".state").exists() and not path.with_suffix(".pieces").exists():
                    yield f"partial blob of which nothing tells {path.relative_to(self.world.folder)}"

    def tracebacks(self) -> Iterator[str]:
        """Those that logs hold since the last look."""
        for log in self.world.logs():
            with log.open("rb") as file:
                file.seek(self._read.get(log, 0))
                text = file.read().decode(errors="replace")
                self._read[log] = file.tell()
            at = text.find("Traceback")
            if at >= 0:
                yield f"traceback in {log.parent.name}: {text[max(0, at - 300) : at + 1500]}"

    def _counts(self) -> Iterator[tuple[str, Callable[[], float]]]:
        """What is to come down to nothing."""
        for member, node in zip(self.world.members, self.world.nodes, strict=True):
            if member.is_running:
                for metric in ("shoal_downloads", "shoal_origin_streams"):
                    yield f"{metric} of {member.name}", partial(node.counted, metric)
        if self.world.shape.has_supernode and self.world.tracker.is_running:
            yield "leases", partial(self.world.supernode.counted, "shoal_supernode_leases")
        for member in self.world.processes:
            if member.is_running:
                yield f"descriptors of {member.name}", partial(self._more_descriptors, member.pid)
                yield f"threads of {member.name}", partial(self._more_threads, member.pid)

    def _more_descriptors(self, pid: int) -> int:
        return max(0, _descriptors(pid) - self._descriptors.get(pid, 1 << 20) - _SPARE_DESCRIPTORS)

    def _more_threads(self, pid: int) -> int:
        return max(0, _threads(pid) - self._threads.get(pid, 1 << 20) - _SPARE_THREADS)


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
