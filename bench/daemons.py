"""Shoal's own daemons as programs of a measurement, a demonstration or a test, and what their metrics say."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from bench.netns import Host
from bench.processes import DidNotStart, Program, connect_from

REGISTRY = "origin.test:5000"
"""What the origin is called in references; configurations say where it listens."""

MEMBERS = {"SHOAL_CLUSTER__SECRET": "of one measurement alone"}
"""By what the daemons of a measurement know each other: what people are told to set is what is measured."""

_START_SECONDS = 60.0
_ANSWER_SECONDS = 5.0


class Daemon(Program):
    """A program that is waited for by what it does."""

    def wait_for(self, port: int) -> None:
        """Wait until it listens on loopback of its host; raises `DidNotStart`."""
        self.wait_until(lambda: _connects(port, self._host))

    def wait_until(self, is_there: Callable[[], bool], every: float = 0.05) -> None:
        """Wait until it is there, looking each `every` seconds; raises `DidNotStart`."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if is_there():
                return
            time.sleep(every)
        raise DidNotStart(f"{' '.join(self._command)}: {self._log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        self.process.wait()


def shoal(
    command: str,
    log: Path,
    settings: Mapping[str, str],
    prefix: Sequence[str] = (),
    host: Host | None = None,
) -> Daemon:
    """A daemon of Shoal's own, configured by environment variables; `prefix` is a command that becomes it, `host` where
    it runs if not on this machine's own network."""
    return Daemon([*prefix, sys.executable, "-m", "shoal.cli", command], log, settings, host)


def free_ports(count: int) -> list[int]:
    """TCP ports of loopback that nobody listens on now, all different."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def metrics(port: int, host: Host | None = None) -> dict[str, float]:
    """What a daemon's operations endpoint on loopback of `host` counts now, by name and labels."""
    try:
        status, text = ask(port, "/metrics", host)
    except (http.client.HTTPException, OSError) as error:
        raise DidNotStart(f"no metrics on port {port}: {error}") from None
    return parse_metrics(text) if status == 200 else {}


def ask(port: int, path: str, host: Host | None = None) -> tuple[int, str]:
    """Status and body of a daemon's answer on loopback of `host`; raises `OSError` and `HTTPException`."""
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.sock = connect_from(host)()
        connection.sock.settimeout(_ANSWER_SECONDS)
        connection.sock.connect(("127.0.0.1", port))
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def parse_metrics(text: str) -> dict[str, float]:
    """Values by name and labels, from Prometheus' text format."""
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def _connects(port: int, host: Host | None) -> bool:
    with connect_from(host)() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class LocalNode:
    """A `shoal peer` on loopback."""

    daemon: Daemon
    proxy: int
    """The port that clients use."""
    operations: int
    store: Path

    def counted(self, name: str) -> float:
        """One of its metrics."""
        return metrics(self.operations).get(name, 0.0)

    def received(self, source: str) -> int:
        """Bytes that came in from `source`: origin or peer."""
        return int(self.counted(f'shoal_download_bytes_total{{source="{source}"}}'))


def start_supernode(stack: ExitStack, folder: Path, members: Mapping[str, str] = MEMBERS) -> str:
    """Run a supernode on loopback until `stack` ends; returns its address. `members`: settings of the cluster."""
    port, operations = free_ports(2)
    settings = {
        "SHOAL_SUPERNODE__PORT": str(port),
        "SHOAL_SUPERNODE__OPERATIONS__PORT": str(operations),
        "SHOAL_SUPERNODE__STATE": str(folder / f"supernode-{port}"),
        **members,
    }
    daemon = stack.enter_context(shoal("supernode", folder / f"supernode-{port}.log", settings))
    daemon.wait_for(port)
    scheme = "https" if "SHOAL_CLUSTER__CERT_FILE" in members else "http"
    return f"{scheme}://127.0.0.1:{port}"


def start_node(
    stack: ExitStack,
    folder: Path,
    name: str,
    upstream: str,
    supernode: str = "",
    members: Mapping[str, str] = MEMBERS,
) -> LocalNode:
    """Run a node on loopback whose only upstream is at `upstream`; returns when it serves and has joined.

    `supernode`: its address, as `start_supernode` gives it; empty: none.
    """
    peer, proxy, operations = free_ports(3)
    settings = {
        "SHOAL_PEER__PORT": str(peer),
        "SHOAL_PEER__OPERATIONS__PORT": str(operations),
        "SHOAL_PEER__STORE": str(folder / f"store-{name}"),
        "SHOAL_PEER__SHUTDOWN_GRACE": "0s",
        "SHOAL_PROXY__PORT": str(proxy),
        "SHOAL_PROXY__DEFAULT_UPSTREAM": REGISTRY,
        "SHOAL_PROXY__UPSTREAMS": json.dumps({REGISTRY: {"url": upstream}}),
        "SHOAL_PROXY__SHUTDOWN_TIMEOUT": "0s",
        **members,
    }
    if supernode:
        settings["SHOAL_PEER__SUPERNODE"] = supernode
    daemon = stack.enter_context(shoal("peer", folder / f"{name}.log", settings))
    node = LocalNode(daemon, proxy, operations, folder / f"store-{name}")
    daemon.wait_for(proxy)
    daemon.wait_until(lambda: not supernode or node.counted("shoal_supernode_connected") == 1.0)
    return node
