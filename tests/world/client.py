"""A plain HTTP client, as careless as curl: tells the status, the body and whether it was cut short, and how long it
took."""

from __future__ import annotations

import http.client
import itertools
import time
from dataclasses import dataclass

from tests.world.nodes import Node

_SECONDS = 60.0
_READ_SIZE = 1 << 20


@dataclass(frozen=True)
class Got:
    """A response. `cut`: the connection ended before the announced length. Times in seconds from the request on."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: bool
    first: float
    """When the first byte of the body came; for a body of no bytes, its end."""
    longest_gap: float
    """The longest time without a byte of the body, the time before the first one among them."""
    seconds: float
    """When the response ended."""

    def brings(self, content: bytes) -> bool:
        """Whether the body is `content`: pytest takes minutes to show how megabytes differ."""
        return self.body == content


def get(node: Node, path: str, method: str = "GET", **headers: str) -> Got:
    """One request to a node's proxy; underscores in the names of `headers` stand for dashes."""
    connection = http.client.HTTPConnection("127.0.0.1", node.proxy_port, timeout=_SECONDS)
    began = time.monotonic()
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        response = connection.getresponse()
        kept = {name.lower(): value for name, value in response.getheaders()}
        parts, times = [], [began]
        while part := _read(response):
            parts.append(part)
            times.append(time.monotonic())
        body = b"".join(parts)
    finally:
        connection.close()
    times.append(time.monotonic())
    gap = max(after - before for before, after in itertools.pairwise(times))
    cut = method != "HEAD" and len(body) < int(kept.get("content-length", 0))
    return Got(response.status, kept, body, cut, times[1] - began, gap, times[-1] - began)


def _read(response: http.client.HTTPResponse) -> bytes:
    """What has come next; empty at the end, also where the connection broke off."""
    try:
        return response.read1(_READ_SIZE)
    except (http.client.IncompleteRead, ConnectionResetError):
        return b""
