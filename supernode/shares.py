"""A table that many peers fill, bounded in bytes, in which nobody's entries push out those of who holds less."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

from supernode.protocol import PeerId

_NOBODY = PeerId("")
"""Whose the entries are of peers that have gone: who comes again and again under new names gains no share by it."""

K = TypeVar("K")
V = TypeVar("V")


class Shares(Generic[K, V]):
    """At most `most` bytes of entries. With more, the oldest one goes of the owner that holds most."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: dict[K, tuple[PeerId, V]] = {}
        self._owned: dict[PeerId, OrderedDict[K, int]] = {}
        self._held: dict[PeerId, int] = {}
        self.size = 0
        """Bytes of all entries, as their owners' sizes say."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def get(self, key: K) -> V | None:
        """The entry of a key."""
        entry = self._entries.get(key)
        return entry[1] if entry is not None else None

    def put(self, key: K, value: V, owner: PeerId, size: int) -> None:
        """Enter a value of `size` bytes, in place of the key's earlier one."""
        self.pop(key)
        self._entries[key] = owner, value
        self._owned.setdefault(owner, OrderedDict())[key] = size
        self._count(owner, size)
        while self.size > self._most:
            self.pop(next(iter(self._owned[max(self._held, key=self._held.__getitem__)])))

    def pop(self, key: K) -> V | None:
        """Take an entry out."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        owner, value = entry
        self._count(owner, -self._owned[owner].pop(key))
        if not self._owned[owner]:
            del self._owned[owner], self._held[owner]
        return value

    def of(self, owner: PeerId) -> list[K]:
        """The keys of one owner, oldest first."""
        return list(self._owned.get(owner, ()))

    def disown(self, owner: PeerId) -> None:
        """The owner has gone; its entries stay."""
        for key, size in list(self._owned.get(owner, {}).items()):
            _, value = self._entries[key]
            self.put(key, value, _NOBODY, size)

    def _count(self, owner: PeerId, size: int) -> None:
        self._held[owner] = self._held.get(owner, 0) + size
        self.size += size
