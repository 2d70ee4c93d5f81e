"""Who brought the blobs that came to this node lately. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from peer.sought import Sought
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.fields import authority
from shoal.recent import Recent
from supernode.protocol import PeerId

_MOST = 4096


class Brought(NamedTuple):
    """What one registry, or one peer by its address, has brought of a blob."""

    name: str
    is_origin: bool
    bytes: int


class Arrivals:
    """Times are in seconds of the machine's clock."""

    def __init__(self, sought: Mapping[BlobKey, Sought]) -> None:
        """`sought`: the blobs on their way."""
        self._sought = sought
        self._ended: Recent[Digest, tuple[float, tuple[Brought, ...]]] = Recent(_MOST)

    def ended(self, sought: Sought) -> None:
        """Nothing more comes of a blob."""
        self._ended.put(sought.key.digest, (sought.moved_at, brought(sought)))

    def since(self, digest: Digest, began: float) -> tuple[Brought, ...]:
        """Who has brought a blob of which something came at that time or later; who brought most is first."""
        for key, sought in self._sought.items():
            if key.digest == digest:
                return brought(sought) if sought.moved_at >= began else ()
        at, found = self._ended.get(digest, (float("-inf"), ()))
        return found if at >= began else ()


def brought(sought: Sought) -> tuple[Brought, ...]:
    """Who has brought how much of a blob until now."""
    found = []
    for supplier, count in sought.suppliers.items():
        host, port = sought.contacts.get(PeerId(supplier.name), ("", 0))
        found.append(Brought(authority(host, port) if host else supplier.name, supplier.is_origin, count))
    return tuple(sorted(found, key=lambda each: -each.bytes))
