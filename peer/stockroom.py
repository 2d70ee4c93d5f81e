"""What a store has on its disk, all kinds of it together, for those who decide what stays and who make room."""

from __future__ import annotations

from peer.disk import failing_to
from peer.eviction import Stock, Victim
from peer.imagelayout import ImageLayout
from peer.inventory import Inventory
from peer.openpartials import OpenPartials
from peer.pins import Pins
from peer.quarantine import Quarantine


class Stockroom:
    """Finished blobs, partial blobs and files in quarantine (`peer.retention.Holder`)."""

    def __init__(
        self, layout: ImageLayout, inventory: Inventory, partials: OpenPartials, quarantine: Quarantine, pins: Pins
    ) -> None:
        self._layout = layout
        self._inventory = inventory
        self._partials = partials
        self._quarantine = quarantine
        self._pins = pins

    def stock(self) -> Stock | None:
        """What there is to decide about; None while files are unverified that may be manifests. Raises `StoreError`."""
        in_use = self._partials.in_use()  # before the inventory: what is finished meanwhile counts as being written
        finished = self._inventory.snapshot()
        if finished is None:
            return None
        return Stock(
            finished.blobs,
            self._quarantine.files(),
            self._partials.parked(),
            finished.references,
            self._pins.names.keys(),
            finished.reading | in_use.reading,
            in_use.writing,
        )

    def held(self) -> tuple[int, int]:
        """Bytes of all blobs, open partial ones counted as complete; and bytes that these still lack on the disk.

        Raises `StoreError`.
        """
        underway = self._partials.keys()  # before the inventory: what is finished meanwhile counts twice
        stored = self._inventory.stored()
        lacking = sum(map(self._partials.lacking, underway))
        aside = [*self._partials.parked().values(), *self._quarantine.files().values()]
        return stored + sum(kept.size for kept in aside) + sum(key.size for key in underway), lacking

    def give_up(self, victim: Victim) -> int:
        """Remove what a victim consists of, unless something of it is in use by now; returns the bytes.

        Raises `StoreError`.
        """
        if victim.reason == "partial":
            (key,) = victim.blobs
            return victim.size if self._partials.remove(key) else 0
        if victim.reason == "quarantined":
            self._quarantine.remove(victim.root)
            return victim.size
        given_up = self._inventory.give_up(victim.root, [key.digest for key in victim.blobs])
        for lost in given_up:
            with failing_to(f"remove {lost.digest}"):
                self._layout.path(lost.digest).unlink(missing_ok=True)
        return sum(lost.size or 0 for lost in given_up)
