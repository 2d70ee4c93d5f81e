"""A small cluster of real processes to do harm to: an origin, a supernode and nodes, on loopback or on a network."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from bench.daemons import MEMBERS, Daemon
from bench.images import write_image
from bench.netns import Host, Network
from tests.faults.clients import Image
from tests.world.images import random_bytes
from tests.world.nodes import Node, Supernode, wait_until
from tests.world.origin import ScriptedOrigin
from tests.world.registries import Registry
from tests.world.swarm import UPSTREAM

MIB = 1 << 20
SECOND = "second.test"
LINK = 50_000_000
"""Bits per second of each host's link on a network."""
_DISK_BYTES = 96 * MIB
_CONGESTION = "reno"
_STOP_SECONDS = 8.0
"""The grace that nodes are given in tests is 1 s for transfers and 1 s for responses."""


@dataclass(frozen=True)
class Shape:
    """What a world is made of. Worlds of one shape can stand for each other."""

    nodes: int = 3
    is_network: bool = False
    """Whether each part is on a host of its own, with a real registry as origin; else all are on loopback, with an
    origin that does what it is told."""
    has_supernode: bool = True
    origin_rate: int = 8 * MIB
    """Bytes per second of all that leaves an origin on loopback."""
    descriptors: int = 0
    """The limit of each node; 0: none."""
    store: str = ""
    """Options of a tmpfs for each node's store; `ext4`: a file system in a file; empty: a folder."""
    settings: tuple[tuple[str, str], ...] = ()
    """Of all nodes."""
    is_closed: bool = False
    """Whether its members prove that they know a secret. On a network they do in any case."""
    supernode_settings: tuple[tuple[str, str], ...] = ()

    @property
    def needs_root(self) -> bool:
        return self.is_network or bool(self.store)


class _Startable(Protocol):
    def start(self, stack: ExitStack) -> Daemon: ...


@dataclass
class Member:
    """A process of the world that may be killed, stopped for a while, and started again."""

    name: str
    part: _Startable
    stack: ExitStack = field(default_factory=ExitStack)
    daemon: Daemon | None = None

    @property
    def pid(self) -> int:
        assert self.daemon is not None
        return self.daemon.process.pid

    @property
    def is_running(self) -> bool:
        return self.daemon is not None and self.daemon.process.poll() is None

    def start(self) -> None:
        """Start it, and wait until it serves."""
        self.stack = ExitStack()
        self.daemon = self.part.start(self.stack)

    def kill(self) -> None:
        """End it without a word."""
        assert self.daemon is not None
        self.daemon.kill()

    def freeze(self) -> None:
        """Stop it; its connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def end(self) -> tuple[float, int]:
        """Ask it to end; returns the seconds that it took and its status."""
        assert self.daemon is not None
        process, began = self.daemon.process, time.monotonic()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return time.monotonic() - began, process.returncode


@dataclass
class _RealOrigin:
    """Distribution's registry as a member."""

    registry: Registry

    def start(self, stack: ExitStack) -> Daemon:
        self.registry.start(stack)
        return self.registry.daemon


class World:
    """Processes of one shape, in a folder, as a context manager."""

    def __init__(self, shape: Shape, folder: Path) -> None:
        self.shape = shape
        self.folder = folder
        self.scripted = ScriptedOrigin(total_rate=shape.origin_rate)
        """The origin of a world on loopback."""
        self.second = ScriptedOrigin()
        """Another one there, whose repositories are named behind `SECOND`."""
        self.network: Network | None = None
        self.supernode: Supernode
        self.nodes: list[Node] = []
        self.members: list[Member] = []
        """Of the nodes, in their order."""
        self.origin: Member
        """Of a world on a network."""
        self.tracker: Member
        """The supernode's."""
        self._images = 0
        self._upstreams: dict[str, str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            hosts: list[Host | None] = [None] * (self.shape.nodes + 2)
            if self.shape.is_network:
                self.network = stack.enter_context(Network([LINK] * len(hosts), _CONGESTION))
                hosts = list(self.network.hosts)
            origin_host, supernode_host, *node_hosts = hosts
            if origin_host is not None:
                registry = Registry(self.folder / "origin", host=origin_host)
                self.origin = Member("the origin", _RealOrigin(registry))
                self.origin.start()
                stack.callback(self.origin.end)
                self.storage, url = registry.root, registry.url
            else:
                url = self.scripted.start(stack)
                self._upstreams[SECOND] = self.second.start(stack)
            settings = self._members() | dict(self.shape.supernode_settings)
            self.supernode = Supernode(self.folder / "supernode", settings, supernode_host)
            self.tracker = Member("the supernode", self.supernode)
            if self.shape.has_supernode:
                self.tracker.start()
                stack.callback(self.tracker.end)
            for place, host in enumerate(node_hosts):
                self._add_node(place, url, host, stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def processes(self) -> list[Member]:
        """All of Shoal's own."""
        return [*([self.tracker] if self.shape.has_supernode else []), *self.members]

    def _members(self) -> dict[str, str]:
        return MEMBERS if self.shape.is_closed or self.shape.is_network else {}

    def logs(self) -> list[Path]:
        """Of Shoal's own."""
        folders = [node.folder for node in self.nodes] + ([self.supernode.folder] if self.shape.has_supernode else [])
        return [folder / "log" for folder in folders]

    def _add_node(self, place: int, url: str, host: Host | None, stack: ExitStack) -> None:
        folder = self.folder / f"node{place}"
        node = Node(
            folder,
            {UPSTREAM: url, **self._upstreams},
            self.supernode.port if self.shape.has_supernode else 0,
            settings=self._members() | dict(self.shape.settings),
            descriptors=self.shape.descriptors,
            host=host,
            supernode_address=self.supernode.address,
        )
        if self.shape.store:
            self._mount(folder / "store", stack)
        member = Member(f"node {place}", node)
        member.start()
        stack.callback(member.end)
        self.nodes.append(node)
        self.members.append(member)

    def _mount(self, store: Path, stack: ExitStack) -> None:
        store.mkdir()
        if self.shape.store == "ext4":
            disk = store.with_name("disk")
            with disk.open("wb") as file:
                file.truncate(_DISK_BYTES)
            subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
            mount = ["mount", "-o", "loop", str(disk)]
        else:
            mount = ["mount", "-t", "tmpfs", "-o", self.shape.store, "none"]
        subprocess.run([*mount, str(store)], check=True)
        stack.callback(subprocess.run, ["umount", "--lazy", str(store)], check=True)

    @staticmethod
    def disk_of(node: Node) -> Path:
        """The file below the file system that a node's store has for itself."""
        return node.folder / "disk"

    def push(self, rng: random.Random, *sizes: int) -> Image:
        """A new image at the origin, of layers of so many bytes, in a repository of its own."""
        self._images += 1
        repository = f"library/run{self._images}"
        if self.network is not None:
            written = write_image(self.storage, repository, sizes)
            return Image(repository, written.digest, {str(digest): size for digest, size in written.blobs})
        seed = rng.random()
        layers = [random_bytes(size, (seed, place)) for place, size in enumerate(sizes)]
        before = set(self.scripted.contents)
        digest = self.scripted.push(*layers, repository=repository)
        made = [each for each in self.scripted.contents if each not in before and each != digest]
        return Image(repository, digest, {each: len(self.scripted.contents[each]) for each in made})

    def endings(self) -> Iterator[str]:
        """End all of Shoal's processes; yields what is wrong with how they do."""
        for member in reversed(self.processes):
            if member.is_running:
                seconds, status = member.end()
                if status != 0:
                    yield f"{member.name} ended with status {status} after {seconds:.1f} s"

    def forget(self) -> None:
        """Nobody needs the images so far: an origin on loopback keeps them in memory."""
        self.scripted.contents.clear()
        self.scripted.tags.clear()

    def wait_until_joined(self) -> None:
        """Until all nodes have reached the supernode."""
        if self.shape.has_supernode:
            for node in self.nodes:
                wait_until(lambda node=node: node.counted("shoal_supernode_connected") == 1, "a node reaches it")  # type: ignore[misc]
