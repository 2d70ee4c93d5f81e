"""What the machine tells the supernode of this peer's blobs, and when. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from peer.commands import Command, Tell
from peer.sought import Sought
from peer.sourcing import Sourcing
from shoal.descriptor import BlobKey
from shoal.messages import BlobRef
from shoal.pieces import to_bitfield
from supernode import protocol

_NEWS_SECONDS = 1.0
"""Between two announcements of new pieces."""

_MAX_BITFIELDS = 2 << 20
"""Bytes of bitfields in one message."""
B = TypeVar("B", protocol.Wanted, protocol.Held)


class Announcing:
    """Keeps the supernode's picture of this peer true."""

    def __init__(self, sought: dict[BlobKey, Sought], sourcing: Sourcing, out: list[Command]) -> None:
        self._sought = sought
        self._sourcing = sourcing
        self._out = out
        self._changed: set[BlobKey] = set()
        self._announced_at = 0.0
        self._interval = 5.0
        self.connected = False

    def joined(self, interval: float, holdings: Iterable[BlobKey], now: float) -> None:
        """A supernode that knows nothing yet: tell it everything."""
        self.connected = True
        self._interval, self._announced_at = interval, now
        self._changed.clear()
        for sought in self._sought.values():
            sought.told_at, sought.is_answered, sought.is_refused = now, False, False
        self.opened(list(self._sought.values()))
        self._announce([protocol.Held(*key) for key in holdings])

    def opened(self, opened: Sequence[Sought]) -> None:
        """Blobs are sought from now on, in this order, or from one place more."""
        if not self.connected:
            return
        wanted = []
        for sought in opened:
            count = sought.layout.count
            there, alone = sought.pieces.there, self._sourcing.alone(sought)
            if sought.passes:
                there = alone = 0
            have = to_bitfield(there, count) if there else b""
            coming = to_bitfield(alone, count) if alone else b""
            for location, place in sought.places.items():
                if not place.is_final:
                    at = location.registry, location.repository
                    partly = sought.passes or bool(sought.layout.all & ~sought.book.scope)
                    on_demand, preheats = partly or sought.book.stands_back, sought.book.preheats
                    wanted.append(
                        protocol.Wanted(*sought.key, *at, have, coming, on_demand=on_demand, preheats=preheats)
                    )
        for batch in _batches(wanted):
            self._out.append(Tell(protocol.Open(batch)))

    def gained(self, key: BlobKey) -> None:
        """A piece is there."""
        self._changed.add(key)

    def completed(self, key: BlobKey) -> None:
        """The whole, verified blob is there."""
        self._changed.discard(key)
        self._out.append(Tell(protocol.Announce([protocol.Held(*key)])))

    def gave_up(self, key: BlobKey) -> None:
        """This peer has nothing of a blob and does not seek it any more."""
        self._changed.discard(key)
        self._out.append(Tell(protocol.Close([BlobRef(*key)])))

    def seek(self, sought: Sought) -> None:
        """Neighbours have gone: ask for others."""
        self._out.append(Tell(protocol.Seek([BlobRef(*sought.key)])))

    def tick(self, now: float) -> None:
        """Tell what is new, and that this peer is alive."""
        since = now - self._announced_at
        if not self.connected or since < _NEWS_SECONDS or (not self._changed and since < self._interval):
            return
        self._announced_at = now
        held = []
        for key in self._changed:
            sought = self._sought.get(key)
            if sought is not None and sought.pieces.there:
                count = sought.layout.count
                alone = self._sourcing.alone(sought)
                coming = to_bitfield(alone, count) if alone else b""
                held.append(protocol.Held(*key, to_bitfield(sought.pieces.there, count), coming))
        self._changed.clear()
        self._announce(held)

    def _announce(self, held: list[protocol.Held]) -> None:
        for batch in _batches(held) or [[]]:
            self._out.append(Tell(protocol.Announce(batch)))


def _batches(blobs: Sequence[B]) -> list[list[B]]:
    """Blobs in lists that fit into one message each."""
    batches: list[list[B]] = []
    size = 0
    for blob in blobs:
        bitfields = len(blob.have) + len(blob.coming)
        if not batches or size + bitfields > _MAX_BITFIELDS or len(batches[-1]) == protocol.MAX_BLOBS:
            batches.append([])
            size = 0
        batches[-1].append(blob)
        size += bitfields
    return batches
