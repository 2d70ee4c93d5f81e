"""Who may wait at a port before having said who it is, so that no crowd keeps others out. No I/O and no clock."""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from shoal.recent import Recent

K = TypeVar("K", bound=Hashable)

_TOLD_SECONDS = 10.0
_MAX_TOLD = 4096


class Strangers(Generic[K]):
    """Those who wait, oldest first. A newcomer is let in always: somebody else goes where there are too many.

    Where one address has its share, its oldest goes; where all places are taken, the oldest of the address that has
    most. So whoever opens many connections pushes out his own, and whoever says who it is within the time that it
    takes to fill a share is let in, even from the address of somebody who does.
    """

    def __init__(self, places: int, places_of_address: int) -> None:
        self._places = places
        self._places_of_address = places_of_address
        self._groups: dict[str, dict[K, None]] = {}
        self._group_of: dict[K, str] = {}

    def __len__(self) -> int:
        return len(self._group_of)

    def __contains__(self, key: K) -> bool:
        return key in self._group_of

    def enter(self, key: K, address: str) -> K | None:
        """A newcomer, who was not here before; returns who has to go, and is not here any more."""
        name = group_of(address)
        group = self._groups.get(name, {})
        leaving: K | None = None
        if len(group) >= self._places_of_address:
            leaving = next(iter(group))
        elif len(self) >= self._places:
            leaving = next(iter(self._groups[max(self._groups, key=lambda each: len(self._groups[each]))]))
        if leaving is not None:
            self.leave(leaving)
        self._groups.setdefault(name, {})[key] = None
        self._group_of[key] = name
        return leaving

    def leave(self, key: K) -> None:
        """Somebody is gone, or no stranger any more; does nothing for who is not here."""
        name = self._group_of.pop(key, None)
        if name is not None:
            del self._groups[name][key]
            if not self._groups[name]:
                del self._groups[name]

    def __iter__(self) -> Iterator[K]:
        return iter(tuple(self._group_of))


class Complaints:
    """Which of those who are turned away are worth a line in the log: of each address one in 10 s, since a crowd that
    nobody lets in could fill the disk with its failures. Times are in seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._told: Recent[str, float] = Recent(_MAX_TOLD)

    def is_due(self, address: str, now: float) -> bool:
        """Whether somebody from there is to be told of now; it is then taken as told."""
        group = group_of(address)
        if now - self._told.get(group, -_TOLD_SECONDS) < _TOLD_SECONDS:
            return False
        self._told.put(group, now)
        return True


def group_of(address: str) -> str:
    """What counts as one address: of IPv6 the network of 64 bits that one host is given."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address
