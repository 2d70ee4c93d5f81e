"""A cluster on a network of namespaces: an origin, a supernode and nodes, each a real daemon on a host of its own."""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

from bench.daemons import MEMBERS, REGISTRY, Daemon, parse_metrics
from bench.netns import Host, Network, NotPossible, visit
from bench.origin import PROGRAM, distribution_config, logged_traffic

REGISTRY_PORT, SUPERNODE_PORT, PEER_PORT, PROXY_PORT, OPERATIONS_PORT = 5000, 5090, 5081, 5080, 5082
_SAMPLE_SECONDS = 0.25


class HostDaemon(Daemon):
    """A daemon on a host of the network."""

    def __init__(self, host: Host, command: Sequence[str], output: Path) -> None:
        super().__init__(command, output, host=host)
        self.host = host


class Cluster:
    """Host 0 is the origin and the supernode's, the last one an unshaped probe, the rest are nodes."""

    def __init__(self, network: Network, registry_root: Path, folder: Path, *, daemons: bool = True) -> None:
        """`daemons`: whether nodes and supernode run, or the origin alone."""
        self._with_daemons = daemons
        self.network = network
        self.origin, *self.nodes, self.probe = network.hosts
        self._root, self._folder = registry_root, folder
        self._stack = ExitStack()
        self.daemons: list[HostDaemon] = []
        self._registry_log = folder / "registry.log"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            config = self._folder / "registry.json"
            config.write_text(json.dumps(distribution_config(self._root, f"0.0.0.0:{REGISTRY_PORT}")))
            registry = HostDaemon(self.origin, [PROGRAM, "serve", str(config)], self._registry_log)
            stack.enter_context(registry)
            if self._with_daemons:
                self._start_shoal(stack)
            registry.wait_for(REGISTRY_PORT)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start_shoal(self, stack: ExitStack) -> None:
        supernode = self._shoal(self.origin, "supernode", "supernode", {})
        stack.enter_context(supernode)
        for place, host in enumerate(self.nodes):
            daemon = self._shoal(host, f"node{place}", "peer", self._node_settings(host, place))
            stack.enter_context(daemon)
            self.daemons.append(daemon)
        supernode.wait_for(SUPERNODE_PORT)
        for daemon in self.daemons:
            daemon.wait_for(PROXY_PORT)

    def _shoal(self, host: Host, name: str, command: str, settings: dict[str, str]) -> HostDaemon:
        environment = [f"{key}={value}" for key, value in (settings | MEMBERS).items()]
        if command == "supernode":
            environment += ["SHOAL_SUPERNODE__HOST=0.0.0.0", f"SHOAL_SUPERNODE__STATE={self._folder / 'supernode'}"]
        line = ["env", *environment, sys.executable, "-m", "shoal.cli", command]
        if command == "peer":
            line += ["--upstream", f"{REGISTRY}=http://{self.origin.address}:{REGISTRY_PORT}"]
        return HostDaemon(host, line, self._folder / f"{name}.log")

    def _node_settings(self, host: Host, place: int) -> dict[str, str]:
        return {
            "SHOAL_PEER__SUPERNODE": f"http://{self.origin.address}:{SUPERNODE_PORT}",
            "SHOAL_PEER__STORE": str(self._folder / f"store{place}"),
            "SHOAL_PEER__HOST": host.address,
            "SHOAL_PEER__SHUTDOWN_GRACE": "0s",
            "SHOAL_PROXY__SHUTDOWN_TIMEOUT": "0s",
            "SHOAL_PROXY__DEFAULT_UPSTREAM": REGISTRY,
        }

    def counted(self, node: Host) -> dict[str, float]:
        """A node's metrics now."""
        return parse_metrics(fetch(node, f"http://127.0.0.1:{OPERATIONS_PORT}/metrics"))

    def wait_until_joined(self) -> None:
        """Wait until every node has reached the supernode; raises `DidNotStart`."""
        for node, daemon in zip(self.nodes, self.daemons, strict=True):
            daemon.wait_until(partial(self._has_joined, node))

    def _has_joined(self, node: Host) -> bool:
        return self.counted(node).get("shoal_supernode_connected") == 1.0

    def kill(self, count: int) -> None:
        """End the first `count` nodes without a word."""
        for daemon in self.daemons[:count]:
            daemon.kill()

    def origin_traffic(self) -> tuple[int, int]:
        """Requests that the origin has answered, and bytes of bodies that it sent."""
        return logged_traffic(self._registry_log)


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
