"""Who brought the blobs that came to this node lately. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from peer.tally import Supplier
from shoal.digest import Digest
from shoal.recent import Recent
from supernode.protocol import PeerId

_MOST, _MOST_OF_BLOB = 4096, 8
"""Blobs that are remembered, and deliveries of one of them."""


class Brought(NamedTuple):
    """What one registry, or one peer by its place, has brought of a blob."""

    name: str
    is_origin: bool
    bytes: int


@dataclass(eq=False, slots=True)
class Delivery:
    """What has come of a blob while it was sought once. Times are in seconds of any monotonic clock."""

    suppliers: dict[Supplier, int] = field(default_factory=dict)
    """Bytes that have come from each, wanted or not."""
    moved_at: float = 0.0
    """When something came last."""


class Arrivals:
    """A blob that was given up and is sought again has had several deliveries."""

    def __init__(self, place: Callable[[PeerId], str]) -> None:
        """`place` says in words where a peer is."""
        self._place = place
        self._deliveries: Recent[Digest, tuple[Delivery, ...]] = Recent(_MOST)

    def came(self, digest: Digest, delivery: Delivery, supplier: Supplier, count: int, now: float) -> None:
        """So many bytes of a blob came."""
        if not delivery.suppliers:
            self._deliveries.put(digest, (*self._deliveries.get(digest, ()), delivery)[-_MOST_OF_BLOB:])
        delivery.suppliers[supplier] = delivery.suppliers.get(supplier, 0) + count
        delivery.moved_at = now

    def since(self, digest: Digest, began: float) -> tuple[Brought, ...]:
        """Who has brought a blob, in deliveries of which something came at that time or later; who brought most is
        first."""
        together: dict[Supplier, int] = {}
        for delivery in self._deliveries.get(digest, ()):
            if delivery.moved_at >= began:
                for supplier, count in delivery.suppliers.items():
                    together[supplier] = together.get(supplier, 0) + count
        found = (Brought(self.name(each), each.is_origin, count) for each, count in together.items())
        return tuple(sorted(found, key=lambda each: -each.bytes))

    def name(self, supplier: Supplier) -> str:
        """A registry's name, or where a peer is."""
        return supplier.name if supplier.is_origin else self._place(PeerId(supplier.name))
