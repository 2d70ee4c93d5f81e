"""What manifests said: the sizes of blobs, and which blobs of an image follow which. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from shoal.descriptor import BlobKind, Descriptor
from shoal.digest import Digest
from shoal.reference import Location

_MAX_BLOBS = 100_000
Plan = tuple[Descriptor, ...]


class ImagePlans:
    """The blobs of the manifests that were read last, bounded in number."""

    def __init__(self) -> None:
        self._blobs: OrderedDict[Digest, tuple[Descriptor, dict[Location, Plan]]] = OrderedDict()

    def expect(self, blobs: Sequence[Descriptor], location: Location) -> None:
        """A manifest (or an index) at `location` names `blobs`, in this order."""
        plan = tuple(blob for blob in blobs if blob.kind is BlobKind.BLOB)
        for blob in blobs:
            _, plans = self._blobs.get(blob.digest, (blob, {}))
            plans[location] = plan
            self._blobs[blob.digest] = (blob, plans)
            self._blobs.move_to_end(blob.digest)
        while len(self._blobs) > _MAX_BLOBS:
            self._blobs.popitem(last=False)

    def known(self, digest: Digest) -> Descriptor | None:
        """What a manifest said of a blob."""
        found = self._blobs.get(digest)
        return found[0] if found is not None else None

    def following(self, digest: Digest, location: Location) -> list[Descriptor]:
        """The blobs that stand behind `digest` in the image at `location`; what is before it the client has."""
        found = self._blobs.get(digest)
        plan = found[1].get(location, ()) if found is not None else ()
        place = next((place for place, blob in enumerate(plan) if blob.digest == digest), len(plan))
        unique = dict.fromkeys(plan[place + 1 :])
        return [blob for blob in unique if blob.digest != digest]
