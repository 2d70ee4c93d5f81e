"""A plain HTTP client, as careless as curl: tells the status, the body and whether it was cut short."""

from __future__ import annotations

import http.client
from dataclasses import dataclass

from tests.world.nodes import Node

_SECONDS = 60.0


@dataclass(frozen=True)
class Got:
    """A response. `cut`: the connection ended before the announced length."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: bool


def get(node: Node, path: str, method: str = "GET", **headers: str) -> Got:
    """One request to a node's proxy; underscores in the names of `headers` stand for dashes."""
    connection = http.client.HTTPConnection("127.0.0.1", node.proxy_port, timeout=_SECONDS)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        response = connection.getresponse()
        kept = {name.lower(): value for name, value in response.getheaders()}
        try:
            return Got(response.status, kept, response.read(), cut=False)
        except http.client.IncompleteRead as error:
            return Got(response.status, kept, error.partial, cut=True)
    finally:
        connection.close()
