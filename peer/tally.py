"""What a node has moved since it began: one book, for Prometheus, for reports and for people. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from peer.sink import Source

MAX_REGISTRIES = 64
OTHERS = "others"
"""Under this name counts what comes from more registries than are told apart, or by a stream that is over."""


class Supplier(NamedTuple):
    """Who gives pieces of a blob to this node: a registry, or a peer by its identity."""

    name: str
    is_origin: bool


@dataclass(slots=True)
class Tally:
    """Bytes, and requests of clients."""

    peers_in: int = 0
    peers_out: int = 0
    requests: int = 0
    served: dict[Source, int] = field(default_factory=lambda: {"store": 0, "peer": 0, "origin": 0})
    """Bytes of blobs and manifests that clients were given, by where they came from."""
    relayed: int = 0
    """Bytes of registries' own answers that clients were given."""
    origins: dict[str, int] = field(default_factory=dict)
    """Bytes that came from each registry."""

    @property
    def received(self) -> dict[str, int]:
        """Bytes of blobs that came to this node, by source."""
        return {"origin": sum(self.origins.values()), "peer": self.peers_in}

    def came_from_origin(self, registry: str, count: int) -> None:
        """Bytes of a blob came from a registry."""
        if registry not in self.origins and len(self.origins) >= MAX_REGISTRIES - 1:
            registry = OTHERS
        self.origins[registry] = self.origins.get(registry, 0) + count
