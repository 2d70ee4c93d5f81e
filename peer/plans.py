"""What manifests said: the sizes of blobs, and which blobs of an image follow which. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from shoal.descriptor import BlobKey, BlobKind, Descriptor
from shoal.digest import Digest
from shoal.pieces import MAX_BLOB_SIZE
from shoal.reference import Location

MAX_BLOBS = 100_000
"""Blobs named by all the manifests that are remembered, each counted once for each manifest that names it."""

MAX_LOCATIONS = 16
"""Places at which one blob's manifests are remembered: a base image's layers are named in many repositories."""

_Key = tuple[Location, tuple[Descriptor, ...]]


@dataclass(slots=True)
class _Plan:
    """One manifest; `uses` counts the digests of which it is the last manifest at its location."""

    location: Location
    blobs: tuple[Descriptor, ...]
    uses: int = 0

    @property
    def key(self) -> _Key:
        return self.location, self.blobs


class ImagePlans:
    """The blobs of the manifests that were read last, bounded in number. A later manifest's word counts."""

    def __init__(self) -> None:
        self._plans: OrderedDict[_Key, _Plan] = OrderedDict()
        self._places: dict[Digest, OrderedDict[Location, tuple[_Plan, int]]] = {}
        self._held = 0

    def __len__(self) -> int:
        """Blobs that are held, at most `MAX_BLOBS`."""
        return self._held

    def expect(self, blobs: Sequence[Descriptor], location: Location) -> None:
        """A manifest (or an index) at `location` names `blobs`, in this order."""
        plan = self._plans.pop((location, tuple(blobs)), None)
        if plan is None:
            plan = _Plan(location, tuple(blobs))
            self._held += len(plan.blobs)
        self._plans[plan.key] = plan
        plan.uses += 1  # not dropped before its own digests point to it
        for place in reversed(range(len(plan.blobs))):  # of a digest that is named twice, the first place counts
            self._point(plan, place)
        self._release(plan)
        while self._held > MAX_BLOBS:
            self._forget(next(iter(self._plans.values())))

    def known(self, digest: Digest, location: Location) -> Descriptor | None:
        """What the last manifest at `location` that names a blob said of it."""
        found = self._find(digest, location)
        return found[0].blobs[found[1]] if found is not None else None

    def names(self, digest: Digest, size: int, location: Location) -> bool:
        """Whether any manifest at `location` that is remembered gives a blob this size; goes through all of them."""
        key = BlobKey(digest, size)
        return any(blob.key == key for plan in self._plans.values() if plan.location == location for blob in plan.blobs)

    def following(self, digest: Digest, location: Location) -> list[Descriptor]:
        """The blobs that stand behind `digest` in the image at `location`; what is before it the client has.

        What cannot be downloaded at all, for its size, is left out: it fails alone, when a client asks for it.
        """
        found = self._find(digest, location)
        if found is None:
            return []
        plan, place = found
        behind: dict[Digest, Descriptor] = {}
        for blob in plan.blobs[place + 1 :]:
            if blob.kind is BlobKind.BLOB and blob.size <= MAX_BLOB_SIZE and blob.digest != digest:
                behind.setdefault(blob.digest, blob)
        return list(behind.values())

    def _find(self, digest: Digest, location: Location) -> tuple[_Plan, int] | None:
        places = self._places.get(digest)
        return places.get(location) if places is not None else None

    def _point(self, plan: _Plan, place: int) -> None:
        places = self._places.setdefault(plan.blobs[place].digest, OrderedDict())
        before = places.pop(plan.location, None)
        plan.uses += 1
        places[plan.location] = (plan, place)
        if before is not None:
            self._release(before[0])
        if len(places) > MAX_LOCATIONS:
            self._release(places.popitem(last=False)[1][0])

    def _release(self, plan: _Plan) -> None:
        plan.uses -= 1
        if not plan.uses:
            del self._plans[plan.key]
            self._held -= len(plan.blobs)

    def _forget(self, plan: _Plan) -> None:
        for digest in {blob.digest for blob in plan.blobs}:
            found = self._find(digest, plan.location)
            if found is not None and found[0] is plan:
                del self._places[digest][plan.location]
                self._release(plan)
                if not self._places[digest]:
                    del self._places[digest]
