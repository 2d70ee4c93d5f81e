"""The last known answers to what references stand for, and for how long each is good. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from shoal.descriptor import BlobKind, Descriptor
from shoal.digest import Digest
from shoal.recent import Recent
from shoal.reference import Location, Tag

MAX_ENTRIES = 50_000


class Key(NamedTuple):
    """A question. `accept`: which kinds of manifests the client takes, where that may change the answer."""

    location: Location
    reference: Tag | Digest
    kind: BlobKind
    accept: str = ""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a reference stands for. `stale`: the origin could not be asked whether it still does.

    `named`: the size is that of a manifest or of the store. Without, it is what the origin answered to HEAD: a hint.
    """

    descriptor: Descriptor
    stale: bool = False
    named: bool = False


class FreshnessTable:
    """The last known answers, each fresh for a time, bounded in number. Time in seconds is passed in."""

    def __init__(self, capacity: int = MAX_ENTRIES) -> None:
        self._entries: Recent[Key, tuple[Descriptor, float, float]] = Recent(capacity)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._entries)

    def fresh(self, key: Key, now: float) -> Resolution | None:
        """The answer that may be given without asking anybody."""
        entry = self._entries.get(key)
        return Resolution(entry[0]) if entry is not None and now < entry[1] else None

    def stale(self, key: Key, now: float) -> Resolution | None:
        """The answer that is given for a while without asking, since the origin could not tell a newer one."""
        entry = self._entries.get(key)
        return Resolution(entry[0], stale=True) if entry is not None and now < entry[2] else None

    def last(self, key: Key) -> Resolution | None:
        """The last known answer, however old."""
        entry = self._entries.get(key)
        return Resolution(entry[0], stale=True) if entry is not None else None

    def remember(self, key: Key, descriptor: Descriptor, until: float) -> Resolution:
        """The origin, or the cluster, says this."""
        self._entries.put(key, (descriptor, until, until))
        return Resolution(descriptor)

    def outlive(self, key: Key, until: float) -> None:
        """The origin cannot be asked: the last known answer, now stale, serves until then."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries[key] = (entry[0], entry[1], until)

    def correct(self, key: Key, wrong: Descriptor, size: int) -> None:
        """What is believed of a size is wrong: `size` takes its place for the rest of the time."""
        entry = self._entries.get(key)
        if entry is not None and entry[0] == wrong:
            self._entries[key] = (replace(wrong, size=size), *entry[1:])

    def forget(self, key: Key) -> None:
        """The origin has it no more."""
        self._entries.pop(key, None)

    def age(self, location: Location) -> None:
        """Nothing of a repository is fresh any more."""
        for key, (descriptor, _, _) in self._entries.items():
            if key.location == location and not isinstance(key.reference, Digest):
                self._entries[key] = descriptor, float("-inf"), float("-inf")
