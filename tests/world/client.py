"""A plain HTTP client, as careless as curl: tells the status, the body and whether it was cut short, and how long it
took."""

from __future__ import annotations

import http.client
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.processes import connect_from
from tests.world.nodes import Node

_SECONDS = 60.0
_READ_SIZE = 1 << 20


@dataclass(frozen=True)
class Got:
    """A response. `cut`: the connection ended before the announced length."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: bool
    moments: tuple[float, ...]
    """When the request was sent, bytes of the body came, and the response ended, by the monotonic clock."""

    @property
    def first(self) -> float:
        """Seconds until the first byte of the body came; for a body of no bytes, until its end."""
        return self.moments[1] - self.moments[0]

    @property
    def longest_gap(self) -> float:
        """The longest time in seconds without a byte of the body, that before the first one among them."""
        return max(after - before for before, after in itertools.pairwise(self.moments))

    @property
    def seconds(self) -> float:
        """From the request to the end of the response."""
        return self.moments[-1] - self.moments[0]

    def brings(self, content: bytes) -> bool:
        """Whether the body is `content`: pytest takes minutes to show how megabytes differ."""
        return self.body == content


def get(node: Node, path: str, method: str = "GET", **headers: str) -> Got:
    """One request to a node's proxy, from the node's host; underscores in the names of `headers` stand for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return fetch(node, path, lambda _: None, method, named)


def fetch(
    node: Node, path: str, heed: Callable[[int], None], method: str = "GET", headers: Mapping[str, str] | None = None
) -> Got:
    """The same; `heed` is told how many bytes have come each time that some have."""
    connection = http.client.HTTPConnection("127.0.0.1", node.proxy_port)
    began = time.monotonic()
    try:
        connection.sock = connect_from(node.host)()
        connection.sock.settimeout(_SECONDS)
        connection.sock.connect(("127.0.0.1", node.proxy_port))
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        kept = {name.lower(): value for name, value in response.getheaders()}
        parts, times = [], [began]
        while part := _read(response):
            parts.append(part)
            times.append(time.monotonic())
            heed(len(part))
        body = b"".join(parts)
    finally:
        connection.close()
    times.append(time.monotonic())
    cut = method != "HEAD" and len(body) < int(kept.get("content-length", 0))
    return Got(response.status, kept, body, cut, tuple(times))


def _read(response: http.client.HTTPResponse) -> bytes:
    """What has come next; empty at the end, also where the connection broke off."""
    try:
        return response.read1(_READ_SIZE)
    except (http.client.IncompleteRead, ConnectionResetError):
        return b""
