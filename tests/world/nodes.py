"""Shoal's own daemons as processes."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.daemons import Daemon, ask, free_ports, metrics, shoal
from bench.netns import Host

_DEADLINE = 20.0
_LOOPBACK = "127.0.0.1"


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll until `condition` holds; fails after some seconds."""
    deadline = time.monotonic() + _DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not in {_DEADLINE:g} s: {what}"
        time.sleep(0.02)


@dataclass
class Node:
    """A `shoal peer` with its store."""

    folder: Path
    upstreams: dict[str, str]
    """Name and address of each registry; the first is the default."""
    supernode: int = 0
    """The supernode's port; 0: none."""
    settings: dict[str, str] = field(default_factory=dict)
    descriptors: int = 0
    """The most file descriptors that it may have; 0: as many as the test."""
    host: Host | None = None
    """Where it runs; None: on loopback."""
    supernode_address: str = _LOOPBACK
    peer_port: int = 0
    proxy_port: int = 0
    operations_port: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.peer_port, self.proxy_port, self.operations_port = free_ports(3)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.proxy_port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    @property
    def environment(self) -> dict[str, str]:
        """Its configuration, as variables; commands about it take the same."""
        settings = {
            "SHOAL_PEER__PORT": str(self.peer_port),
            "SHOAL_PEER__STORE": str(self.folder / "store"),
            "SHOAL_PEER__OPERATIONS__PORT": str(self.operations_port),
            "SHOAL_PEER__SHUTDOWN_GRACE": "1s",
            "SHOAL_PROXY__PORT": str(self.proxy_port),
            "SHOAL_PROXY__DEFAULT_UPSTREAM": next(iter(self.upstreams)),
            "SHOAL_PROXY__UPSTREAMS": json.dumps({name: {"url": url} for name, url in self.upstreams.items()}),
            "SHOAL_PROXY__SHUTDOWN_TIMEOUT": "1s",
        }
        if self.supernode:
            settings["SHOAL_PEER__SUPERNODE"] = f"http://{self.supernode_address}:{self.supernode}"
        if self.host is not None:
            settings["SHOAL_PEER__HOST"] = self.host.address
        return settings | self.settings

    def daemon(self) -> Daemon:
        """The process, to be entered; the same store each time."""
        prefix = ["prlimit", f"--nofile={self.descriptors}:{self.descriptors}"] if self.descriptors else []
        return shoal("peer", self.folder / "log", self.environment, prefix, self.host)

    def start(self, stack: ExitStack) -> Daemon:
        """Start it, and wait until it serves and has reached its supernode."""
        daemon = stack.enter_context(self.daemon())
        daemon.wait_for(self.proxy_port)
        if self.supernode:
            wait_until(lambda: self.counted("shoal_supernode_connected") == 1, "the node reaches its supernode")
        return daemon

    def counted(self, name: str) -> float:
        """One of its metrics."""
        return metrics(self.operations_port, self.host).get(name, 0.0)

    def received(self, source: str) -> float:
        """Bytes that came from `source`: origin or peer."""
        return self.counted(f'shoal_download_bytes_total{{source="{source}"}}')

    @property
    def is_ready(self) -> bool:
        """What `/readyz` says."""
        try:
            return ask(self.operations_port, "/readyz", self.host)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def stored(self) -> set[str]:
        """The blobs that its store holds, as digests."""
        return {f"sha256:{path.name}" for path in (self.folder / "store/blobs/sha256").iterdir()}


@dataclass
class Supernode:
    """A `shoal supernode`."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    host: Host | None = None
    """Where it runs; None: on loopback."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port, self.operations_port = free_ports(2)
        self.operations = {
            "SHOAL_SUPERNODE__OPERATIONS__PORT": str(self.operations_port),
            "SHOAL_SUPERNODE__STATE": str(self.folder / "state"),
        }

    @property
    def address(self) -> str:
        return self.host.address if self.host else _LOOPBACK

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def start(self, stack: ExitStack) -> Daemon:
        """Start it, and wait until it serves."""
        daemon = stack.enter_context(self.daemon())
        daemon.wait_for(self.port)
        return daemon

    def daemon(self) -> Daemon:
        """The process, to be entered."""
        settings = {"SHOAL_SUPERNODE__PORT": str(self.port), **self.operations}
        if self.host is not None:
            settings["SHOAL_SUPERNODE__HOST"] = "0.0.0.0"
        return shoal("supernode", self.folder / "log", settings | self.settings, host=self.host)

    def counted(self, name: str) -> float:
        """One of its metrics."""
        return metrics(self.operations_port, self.host).get(name, 0.0)
