"""What each peer's words cost the supernode in memory, and how much of it a peer may take. No I/O."""

from __future__ import annotations

from typing import Protocol

from shoal.pieces import PieceLayout
from supernode.protocol import PeerId

_MOST_EACH, _MOST = 128 << 20, 1 << 30
"""Bytes for one peer and in all. Beyond the latter who has taken more than its equal part gets no more."""
_MEMBER, _SWARM, _LEECHER, _PLACE = 700, 1300, 1100, 1300
"""Bytes of a membership, of a swarm, of what is kept of who wants a blob, and of a place that nobody had named yet, in
CPython 3.11 on 64 bits, besides bitfields and names (`docs/architecture.md`, Bounds)."""


def member_bytes(layout: PieceLayout) -> int:
    """What it costs that a peer is in a swarm."""
    return _MEMBER + 2 * layout.count // 8


def swarm_bytes(layout: PieceLayout) -> int:
    """What a swarm costs besides its members."""
    return _SWARM + 4 * layout.count // 8


def leecher_bytes(layout: PieceLayout) -> int:
    """What it costs that a peer wants a blob: what comes to it and what it starves for are sets too."""
    return _LEECHER + 4 * layout.count // 8


def place_bytes(registry: str, repository: str) -> int:
    """What it costs that a peer names a place of a blob."""
    return _PLACE + 4 * (len(registry) + len(repository))


class Account(Protocol):
    """Something that a peer is charged for, and knows for how much (`supernode.swarm.Member`)."""

    cost: int


class Ledger:
    """Bytes by peer."""

    def __init__(self) -> None:
        self._taken: dict[PeerId, int] = {}
        self.total = 0

    def may_take(self, peer: PeerId, size: int) -> bool:
        """Whether a peer may take so many bytes more."""
        taken = self._taken.get(peer, 0) + size
        if taken > _MOST_EACH:
            return False
        return self.total + size <= _MOST or taken <= _MOST // max(len(self._taken), 1)

    def take(self, peer: PeerId, size: int) -> None:
        """A peer takes so many bytes more, or gives them back where it is less than 0."""
        taken = self._taken.get(peer, 0) + size
        self.total += size
        if taken:
            self._taken[peer] = taken
        else:
            self._taken.pop(peer, None)

    def charge(self, peer: PeerId, account: Account, size: int) -> None:
        """The same, for the sake of `account`."""
        account.cost += size
        self.take(peer, size)

    def taken(self, peer: PeerId) -> int:
        """Bytes that a peer has taken."""
        return self._taken.get(peer, 0)
