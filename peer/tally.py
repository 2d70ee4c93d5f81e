"""What a node has moved since it began, for reports and for people. No I/O.

Prometheus is told the same by `peer.metrics` and `proxy.metrics`, whose values cannot be read back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from peer.sink import Source

MAX_REGISTRIES = 64
OTHERS = "others"
"""Under this name counts what comes from more registries than are told apart."""


class Supplier(NamedTuple):
    """Who gives pieces of a blob to this node: a registry, or a peer by its identity."""

    name: str
    is_origin: bool


@dataclass(slots=True)
class Tally:
    """Bytes, and requests of clients."""

    peers_out: int = 0
    requests: int = 0
    served: dict[Source, int] = field(default_factory=lambda: {"store": 0, "peer": 0, "origin": 0})
    origins: dict[str, int] = field(default_factory=dict)
    """Bytes that came from each registry."""

    def came_from_origin(self, registry: str, count: int) -> None:
        """Bytes of a blob came from a registry."""
        if registry not in self.origins and len(self.origins) >= MAX_REGISTRIES - 1:
            registry = OTHERS
        self.origins[registry] = self.origins.get(registry, 0) + count
