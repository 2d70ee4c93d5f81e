"""Shoal's own daemons as programs of a measurement, a demonstration or a test, and what their metrics say."""

from __future__ import annotations

import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.processes import DidNotStart, Program

_START_SECONDS = 60.0


class Daemon(Program):
    """A program that is waited for by what it does."""

    def wait_for(self, port: int) -> None:
        """Wait until it listens on loopback; raises `DidNotStart`."""
        self.wait_until(lambda: _connects(port))

    def wait_until(self, is_there: Callable[[], bool]) -> None:
        """Wait until it is there; raises `DidNotStart`."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if is_there():
                return
            time.sleep(0.05)
        raise DidNotStart(f"{' '.join(self._command)}: {self._log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        self.process.wait()


def shoal(command: str, log: Path, settings: Mapping[str, str]) -> Daemon:
    """A daemon of Shoal's own, configured by environment variables."""
    return Daemon([sys.executable, "-m", "shoal.cli", command], log, settings)


def free_ports(count: int) -> list[int]:
    """TCP ports of loopback that nobody listens on now, all different."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def metrics(port: int) -> dict[str, float]:
    """What a daemon's operations endpoint on loopback counts now, by name and labels."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return parse_metrics(answer.read().decode())
    except (urllib.error.URLError, OSError) as error:
        raise DidNotStart(f"no metrics on port {port}: {error}") from None


def parse_metrics(text: str) -> dict[str, float]:
    """Values by name and labels, from Prometheus' text format."""
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def _connects(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
