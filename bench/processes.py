"""Programs that take part in a measurement: started, waited for, watched and ended by their own process id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from bench.netns import Host, socket_in

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.01
_TICKS = os.sysconf("SC_CLK_TCK")


class DidNotStart(Exception):
    """A program ended, or did not listen, with the end of what it said."""


class Program:
    """A process, and those it starts, as a context manager; on `host`, or without one on this machine."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, host: Host | None = None
    ) -> None:
        self._command = host.command(command) if host else list(command)
        self._log = log
        self._environment = {**os.environ, **(environment or {})}
        self._host = host
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=self._environment, start_new_session=True
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def listening(self, port: int) -> Self:
        """Wait until it takes connections; raises `DidNotStart`."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with connect_from(self._host)() as probe:
                if probe.connect_ex((self._host.address if self._host else "127.0.0.1", port)) == 0:
                    return self
            time.sleep(_POLL_SECONDS)
        raise DidNotStart(f"{self._command[0]}: {self._log.read_text(errors='replace')[-2000:]}")

    def cpu_seconds(self) -> float:
        """User and system time so far, with the processes that it started."""
        return sum(_cpu_seconds(pid) for pid in _family(self.process.pid))

    def resident_bytes(self) -> int:
        """Resident memory now, of the program's own process."""
        return resident_bytes(self.process.pid)


class IdleMeter:
    """The share of the machine's CPU that is idle, from entry to exit (or until now)."""

    def __enter__(self) -> Self:
        self._before = self._after = _machine_ticks()
        return self

    def __exit__(self, *_: object) -> None:
        self._after = _machine_ticks()

    @property
    def share(self) -> float:
        idle, total = (after - before for after, before in zip(self._after, self._before, strict=True))
        return idle / total if total else 1.0


class PeakMemory:
    """The largest resident memory of a process, in bytes, sampled from entry to exit."""

    def __init__(self, program: Program, every: float = 0.02) -> None:
        self._program, self._every = program, every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.samples: list[tuple[float, int]] = []
        """Seconds since the entry, and bytes."""

    @property
    def peak(self) -> int:
        return max(size for _, size in self.samples)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self.samples.append((time.monotonic() - self._began, self._program.resident_bytes()))
            if self._done.wait(self._every):
                return


def connect_from(host: Host | None) -> Callable[[], socket.socket]:
    """Makes TCP sockets that belong to `host`'s namespace."""
    return (lambda: socket_in(host)) if host else socket.socket


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _family(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # it has just ended
        return []
    return [pid, *(each for child in children for each in _family(child))]


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS  # its own, and its children's that have ended


def _machine_ticks() -> tuple[int, int]:
    fields = [int(ticks) for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)
