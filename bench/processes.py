"""Daemons as child processes: started, waited for, measured and ended, each by its own process id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

START_SECONDS = 60.0
_STOP_SECONDS = 10.0


class NotStarted(Exception):
    """A daemon ended, or did not listen in time."""


class Daemon:
    """A process as a context manager; its output goes to a file."""

    def __init__(self, command: Sequence[str], output: Path, environment: Mapping[str, str] | None = None) -> None:
        """`environment` is added to this process's own."""
        self._command = list(command)
        self._output = output
        self._environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> Self:
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                self._command, stdout=output, stderr=subprocess.STDOUT, env=self._environment, start_new_session=True
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_for(self, port: int, host: str = "127.0.0.1") -> None:
        """Wait until it listens; raises `NotStarted`."""
        self.wait_until(lambda: _connects(socket.socket(), host, port))

    def wait_until(self, listens: Callable[[], bool]) -> None:
        """Wait until it is there; raises `NotStarted`."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if listens():
                return
            time.sleep(0.05)
        raise NotStarted(f"{' '.join(self._command)}: {self._output.read_text(errors='replace')[-2000:]}")

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> int:
        """Bytes of memory that it occupies now."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Tell it to stop, and wait."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()


def shoal(command: str, output: Path, settings: Mapping[str, str]) -> Daemon:
    """A daemon of Shoal's own, configured by environment variables."""
    return Daemon([sys.executable, "-m", "shoal.cli", command], output, settings)


def free_ports(count: int) -> list[int]:
    """TCP ports of loopback that nobody listens on now."""
    with_sockets = [socket.socket() for _ in range(count)]
    for sock in with_sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in with_sockets]
    for sock in with_sockets:
        sock.close()
    return ports


def metrics(port: int) -> dict[str, float]:
    """What a daemon's operations endpoint counts now, by name and labels."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return parse_metrics(answer.read().decode())
    except (urllib.error.URLError, OSError) as error:
        raise NotStarted(f"no metrics on port {port}: {error}") from None


def parse_metrics(text: str) -> dict[str, float]:
    """Values by name and labels, from Prometheus' text format."""
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def _connects(sock: socket.socket, host: str, port: int) -> bool:
    with sock:
        sock.settimeout(1.0)
        return sock.connect_ex((host, port)) == 0
