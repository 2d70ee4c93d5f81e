"""The nodes of the cluster as people know them: names, labels, versions, and since when they are here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from supernode.handout import Contact
from supernode.protocol import Hello, PeerId


@dataclass(frozen=True, slots=True)
class Node:
    """One node, as its peer has introduced itself. What it says of itself nobody has checked."""

    peer: PeerId
    name: str
    labels: Mapping[str, str]
    software: str
    """The version that it runs."""
    contact: Contact
    joined_at: float
    """Seconds since the epoch."""
    preheats: bool = False
    """Whether it takes orders to preheat."""


class Roster:
    """The nodes that are connected now."""

    def __init__(self) -> None:
        self._nodes: dict[PeerId, Node] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._nodes

    def get(self, peer: PeerId) -> Node | None:
        """A node that is here, else None."""
        return self._nodes.get(peer)

    def join(self, peer: PeerId, hello: Hello, contact: Contact, now: float) -> None:
        """A peer has connected. `now`: seconds since the epoch."""
        name = hello.name or contact.host
        self._nodes[peer] = Node(peer, name, dict(hello.labels), hello.software, contact, now, hello.preheats)

    def leave(self, peer: PeerId) -> None:
        """A peer is gone."""
        self._nodes.pop(peer, None)
