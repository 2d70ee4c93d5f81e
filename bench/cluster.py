"""A cluster on a network of namespaces: an origin, a supernode and nodes, each a real daemon on a host of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import aiohttp

from bench.netns import Host, Network, NotPossible, socket_in, visit

REGISTRY_PORT, SUPERNODE_PORT, PEER_PORT, PROXY_PORT, OPERATIONS_PORT = 5000, 5090, 5081, 5080, 5082
REGISTRY_NAME = f"origin.test:{REGISTRY_PORT}"
"""What images are called; the nodes' configuration says where it is."""

_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_SAMPLE_SECONDS = 0.25


@dataclass
class Daemon:
    """A process on a host; its output goes to a file."""

    host: Host
    command: Sequence[str]
    output: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self.host.command(self.command), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def wait_for(self, port: int) -> None:
        """Wait until it listens; raises `NotPossible` where it does not."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket_in(self.host) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        raise NotPossible(
            f"{self.command[0]} on {self.host.namespace} did not start: {self.output.read_text()[-2000:]}"
        )

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it, and wait."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()


class Cluster:
    """Host 0 is the origin and the supernode's, the last one an unshaped probe, the rest are nodes."""

    def __init__(self, network: Network, registry_root: Path, folder: Path) -> None:
        self.network = network
        self.origin, *self.nodes, self.probe = network.hosts
        self._root, self._folder = registry_root, folder
        self._stack = ExitStack()
        self.daemons: list[Daemon] = []
        self.registry_log = folder / "registry.log"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            config = self._folder / "registry.json"
            config.write_text(json.dumps(_registry_config(self._root)))
            registry = Daemon(self.origin, ["docker-registry", "serve", str(config)], self.registry_log)
            supernode = self._shoal(self.origin, "supernode", "supernode", {})
            stack.callback(registry.stop)
            registry.start()
            stack.callback(supernode.stop)
            supernode.start()
            for place, host in enumerate(self.nodes):
                daemon = self._shoal(host, f"node{place}", "peer", self._node_settings(host, place))
                stack.callback(daemon.stop)
                daemon.start()
                self.daemons.append(daemon)
            registry.wait_for(REGISTRY_PORT)
            supernode.wait_for(SUPERNODE_PORT)
            for daemon in self.daemons:
                daemon.wait_for(PROXY_PORT)
            self.supernode, self.registry = supernode, registry
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _shoal(self, host: Host, name: str, command: str, settings: dict[str, str]) -> Daemon:
        environment = [f"{key}={value}" for key, value in settings.items()]
        if command == "supernode":
            environment.append("SHOAL_SUPERNODE__HOST=0.0.0.0")
        line = ["env", *environment, sys.executable, "-m", "shoal.cli", command]
        if command == "peer":
            line += ["--upstream", f"{REGISTRY_NAME}=http://{self.origin.address}:{REGISTRY_PORT}"]
        return Daemon(host, line, self._folder / f"{name}.log")

    def _node_settings(self, host: Host, place: int) -> dict[str, str]:
        return {
            "SHOAL_PEER__SUPERNODE": f"http://{self.origin.address}:{SUPERNODE_PORT}",
            "SHOAL_PEER__STORE": str(self._folder / f"store{place}"),
            "SHOAL_PEER__HOST": host.address,
            "SHOAL_PEER__SHUTDOWN_GRACE": "1s",
            "SHOAL_LOG__LEVEL": os.environ.get("SHOAL_LOG__LEVEL", "info"),
        }

    def source_bytes(self, node: Host) -> dict[str, float]:
        """What a node counted: bytes that came in, by source, and how its pieces ended."""
        text = fetch(node, f"http://127.0.0.1:{OPERATIONS_PORT}/metrics")
        found: dict[str, float] = {}
        for line in text.splitlines():
            if line.startswith(("shoal_bytes_total", "shoal_pieces_total", "shoal_piece_requests_total")):
                name, value = line.rsplit(" ", 1)
                found[name] = float(value)
        return found

    def origin_traffic(self, since: int) -> tuple[int, int]:
        """Requests that the origin has answered, and bytes of bodies that it sent, from a place in its log on."""
        requests = sent = 0
        with self.registry_log.open("rb") as log:
            log.seek(since)
            for line in log:
                if b"response completed" in line:
                    entry = json.loads(line)
                    requests += 1
                    sent += entry.get("http.response.written", 0)
        return requests, sent


def fetch(host: Host, url: str) -> str:
    """A small text from a daemon, asked for on its own host."""
    got: list[str] = []

    def ask() -> None:
        with urllib.request.urlopen(url, timeout=5) as response:
            got.append(response.read().decode())

    try:
        visit(host.namespace, ask)
    except urllib.error.URLError as error:
        raise NotPossible(f"{url} on {host.namespace}: {error}") from None
    return got[0]


def connector(host: Host) -> aiohttp.TCPConnector:
    """Connections that begin on a host, for an HTTP client that runs outside of it."""
    return aiohttp.TCPConnector(socket_factory=lambda _: socket_in(host), limit=0)


class Sampler:
    """Bytes received and sent by each host over time, read at the bridge's ports, as a context manager."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._done = threading.Event()
        self._thread = threading.Thread(target=visit, args=(network.switch, self._run))
        self.samples: list[tuple[float, list[tuple[int, int]]]] = []
        """Seconds from the start, and for each host bytes in and out."""

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            ports = _port_counters(Path("/proc/thread-self/net/dev").read_text())
            now = time.monotonic() - self._began
            self.samples.append((now, [ports[f"p{place}"] for place in range(len(self._network.hosts))]))


def _port_counters(text: str) -> dict[str, tuple[int, int]]:
    """What a host receives is what its port at the bridge sends."""
    counters = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        fields = rest.split()
        counters[name.strip()] = (int(fields[8]), int(fields[0]))
    return counters


def _registry_config(root: Path) -> dict[str, object]:
    return {
        "version": 0.1,
        "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(root), "maxthreads": 100}},
        "http": {"addr": f"0.0.0.0:{REGISTRY_PORT}"},
    }
