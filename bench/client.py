"""A client that pulls as docker does: the manifest, then three blobs at a time, the digest of each checked.

Plain sockets and threads, so that the client takes as little of the machine as it can. `python -m bench.client` is one
such client as a process of its own, which prints what it measured as JSON.
"""

from __future__ import annotations

import http.client
import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import click

from shoal.descriptor import MANIFEST_TYPES, Descriptor, Manifest
from shoal.digest import Digest

AT_A_TIME = 3
"""Blobs that docker and containerd fetch at a time."""

_BUFFER = 1 << 20
_STALL_SECONDS = 120.0


class WrongContent(Exception):
    """A registry answered with an error, or with bytes that are not what was asked for."""


@dataclass(frozen=True, slots=True)
class Pull:
    """One pull. Times are in seconds, from its start; `bytes` are those of all blobs."""

    seconds: float
    first_byte: float
    """Until the first byte of any blob (the manifest is there already)."""
    blob_first_byte: float
    """From the first request for a blob to the first byte of one."""
    bytes: int
    cpu_seconds: float
    """Of the client itself."""


def pull(
    address: tuple[str, int],
    repository: str,
    reference: str = "latest",
    *,
    make_socket: Callable[[], socket.socket] = socket.socket,
    at_a_time: int = AT_A_TIME,
) -> Pull:
    """Pull an image; raises `WrongContent`, or `OSError` and `http.client.HTTPException` where the network fails.

    `make_socket` makes the TCP sockets, for a client in another network namespace. Each worker keeps its connection.
    """
    return _Puller(address, repository, make_socket, at_a_time).run(reference)


class _Puller:
    def __init__(
        self, address: tuple[str, int], repository: str, make_socket: Callable[[], socket.socket], at_a_time: int
    ) -> None:
        self._address = address
        self._repository = repository
        self._make_socket = make_socket
        self._at_a_time = at_a_time
        self._own = threading.local()
        self._connections: list[http.client.HTTPConnection] = []
        self._first_bytes: list[float] = []

    def run(self, reference: str) -> Pull:
        busy_before, began = _cpu_seconds(), time.monotonic()
        with self._closing(), ThreadPoolExecutor(self._at_a_time) as workers:
            manifest = workers.submit(self._manifest, reference).result()
            asked = time.monotonic()
            blobs = manifest.blobs
            total = sum(workers.map(self._blob, blobs))
        ended, first = time.monotonic(), min(self._first_bytes)
        return Pull(ended - began, first - began, first - asked, total, _cpu_seconds() - busy_before)

    @contextmanager
    def _closing(self) -> Iterator[None]:
        try:
            yield
        finally:
            for connection in self._connections:
                connection.close()

    def _manifest(self, reference: str) -> Manifest:
        """As docker: HEAD of the tag, then GET by digest."""
        headers = {"Accept": ", ".join(MANIFEST_TYPES)}
        head = self._ask("HEAD", f"manifests/{reference}", headers)
        head.read()
        digest = Digest(head.headers["Docker-Content-Digest"])
        content = self._ask("GET", f"manifests/{digest}", headers).read()
        if Digest.of(content) != digest:
            raise WrongContent(f"{digest}: another manifest came")
        return Manifest.parse(content)

    def _blob(self, blob: Descriptor) -> int:
        response = self._ask("GET", f"blobs/{blob.digest}", {})
        hasher, size, buffer = blob.digest.hasher(), 0, memoryview(bytearray(_BUFFER))
        while count := response.readinto(buffer):
            if size == 0:
                self._first_bytes.append(time.monotonic())
            hasher.update(buffer[:count])
            size += count
        if size != blob.size or not blob.digest.matches(hasher):
            raise WrongContent(f"{blob.digest}: {size} bytes of {blob.size} came, or wrong ones")
        return size

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        connection = self._connection()
        connection.request(method, f"/v2/{self._repository}/{path}", headers=headers)
        response = connection.getresponse()
        if response.status // 100 == 3:  # to a CDN; measured registries do not
            raise WrongContent(f"{path}: redirected to {response.headers['Location']}")
        if response.status != 200:
            raise WrongContent(f"{path}: {response.status} {response.read(500)!r}")
        return response

    def _connection(self) -> http.client.HTTPConnection:
        found: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if found is not None and found.sock is not None:
            return found
        host, port = self._address
        connection = http.client.HTTPConnection(host, port)
        sock = self._make_socket()
        sock.settimeout(_STALL_SECONDS)
        sock.connect(self._address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock = sock
        self._own.connection = connection
        self._connections.append(connection)
        return connection


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@click.command()
@click.option("--at-a-time", default=AT_A_TIME, show_default=True, help="Blobs at a time.")
@click.argument("address")
@click.argument("repository")
@click.argument("reference", default="latest")
def main(at_a_time: int, address: str, repository: str, reference: str) -> None:
    """Pull REPOSITORY from the registry at ADDRESS (host:port), check it and throw it away."""
    host, _, port = address.rpartition(":")
    click.echo(json.dumps(asdict(pull((host, int(port)), repository, reference, at_a_time=at_a_time))))


if __name__ == "__main__":
    main()
