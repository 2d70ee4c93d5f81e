"""A network of namespaces: hosts behind one bridge, each with a link shaped both ways by `tc tbf`. Needs root."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

BURST = "128kb"
"""A smaller burst makes the kernel cut its large segments, which eats a core."""
QUEUE = "50ms"
_SUBNET = "10.77.0"
_RATE_PROBE_BYTES = 12 << 20
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.setns.argtypes = (ctypes.c_int, ctypes.c_int)


class NotPossible(Exception):
    """The machine lacks what a shaped network needs."""


@dataclass(frozen=True, slots=True)
class Host:
    """A namespace with one address. `rate` is its link's in bit/s each way; 0: not shaped."""

    namespace: str
    address: str
    rate: int

    def command(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` on this host."""
        return ["ip", "netns", "exec", self.namespace, *command]

    def counters(self) -> tuple[int, int]:
        """Bytes received and sent on the host's link, with all headers."""
        found = [
            int(_run("ip", "netns", "exec", self.namespace, "cat", f"/sys/class/net/eth0/statistics/{name}"))
            for name in ("rx_bytes", "tx_bytes")
        ]
        return found[0], found[1]


class Network:
    """Hosts on a bridge, as a context manager that leaves nothing behind."""

    def __init__(self, rates: Sequence[int], congestion: str) -> None:
        """One host for each of `rates` (bit/s); `congestion` is set in every namespace."""
        self._prefix = f"shoal{os.getpid()}"
        self._congestion = congestion
        self.switch = f"{self._prefix}-sw"
        """The namespace of the bridge; the port of host `i` is `p{i}`."""
        self._stack = ExitStack()
        self.hosts = [
            Host(f"{self._prefix}-{place}", f"{_SUBNET}.{place + 1}", rate) for place, rate in enumerate(rates)
        ]

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise NotPossible("network namespaces and traffic shaping need root")
        if shutil.which("ip") is None or shutil.which("tc") is None:
            raise NotPossible("network namespaces need `ip` and `tc` (Debian package iproute2)")
        with ExitStack() as stack:
            switch = self._namespace(stack, self.switch)
            _run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
            _run("ip", "-n", switch, "link", "set", "br0", "up")
            for place, host in enumerate(self.hosts):
                self._namespace(stack, host.namespace)
                self._attach(switch, f"p{place}", host)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _namespace(self, stack: ExitStack, name: str) -> str:
        _run("ip", "netns", "add", name)
        stack.callback(_run, "ip", "netns", "del", name)
        _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv4.tcp_congestion_control={self._congestion}")
        return name

    @staticmethod
    def _attach(switch: str, port: str, host: Host) -> None:
        _run("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
        _run("ip", "-n", switch, "link", "set", port, "master", "br0", "up")
        _run("ip", "-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
        _run("ip", "-n", host.namespace, "link", "set", "eth0", "up")
        if host.rate:
            for namespace, device in ((host.namespace, "eth0"), (switch, port)):
                shape = ("tbf", "rate", f"{host.rate}bit", "burst", BURST, "latency", QUEUE)
                _run("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", *shape)

    def unplug(self, host: Host) -> None:
        """Take the carrier from a host's link: what it sends goes nowhere, and nobody is told."""
        _run("ip", "-n", self.switch, "link", "set", self._port(host), "down")

    def plug(self, host: Host) -> None:
        """Give it back."""
        _run("ip", "-n", self.switch, "link", "set", self._port(host), "up")

    def part(self, *hosts: Host) -> None:
        """Let these hosts reach all others and not each other."""
        for host in hosts:
            _run("bridge", "-n", self.switch, "link", "set", "dev", self._port(host), "isolated", "on")

    def join(self, *hosts: Host) -> None:
        """End that."""
        for host in hosts:
            _run("bridge", "-n", self.switch, "link", "set", "dev", self._port(host), "isolated", "off")

    def _port(self, host: Host) -> str:
        return f"p{self.hosts.index(host)}"

    def measure(self, sender: Host, receiver: Host, size: int = _RATE_PROBE_BYTES) -> float:
        """Bytes per second of a plain TCP transfer of `size` bytes between two hosts."""
        listener = socket_in(receiver)
        listener.bind((receiver.address, 0))
        listener.listen(1)
        source = socket_in(sender)
        source.connect(listener.getsockname())
        sink, _ = listener.accept()
        sending = threading.Thread(target=_send_zeros, args=(source, size))
        with listener, source, sink:
            sending.start()
            buffer = bytearray(1 << 20)
            received = sink.recv_into(buffer)
            began, first = time.monotonic(), received
            while received < size:
                received += sink.recv_into(buffer)
            seconds = time.monotonic() - began
            sending.join()
        return (received - first) / seconds


def _send_zeros(sock: socket.socket, size: int) -> None:
    block = bytes(1 << 18)
    for start in range(0, size, len(block)):
        sock.sendall(block[: min(len(block), size - start)])


def socket_in(host: Host) -> socket.socket:
    """A TCP socket that belongs to a host's namespace."""
    made: list[socket.socket] = []
    visit(host.namespace, lambda: made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM)))
    return made[0]


def visit(namespace: str, work: Callable[[], None]) -> None:
    """Do `work` in a namespace: a thread goes there. Its exceptions are raised here."""
    failures: list[BaseException] = []

    def go() -> None:
        try:
            with Path(f"/run/netns/{namespace}").open("rb") as file:
                _setns(file.fileno())
            work()
        except BaseException as error:
            failures.append(error)

    visiting = threading.Thread(target=go)
    visiting.start()
    visiting.join()
    if failures:
        raise failures[0]


def _setns(fd: int) -> None:
    """Move the calling thread to a network namespace (`os.setns` came with Python 3.12)."""
    if _LIBC.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise NotPossible(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
