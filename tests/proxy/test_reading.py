"""What a node reads of images for itself: lists of tags over several pages, and what is about a manifest."""

from __future__ import annotations

import json
from typing import cast

import pytest

from peer.origin import OriginNotFound, OriginUnavailable
from proxy.admission import Admission
from proxy.identity import ANONYMOUS, Identity
from proxy.manifests import ManifestFrontend
from proxy.naming import Namer
from proxy.reading import ImageReader
from proxy.upstream import Listing
from shoal.descriptor import OCI_MANIFEST
from shoal.digest import Digest
from shoal.reference import Location, Registry

AT = Location.parse("registry.test:5000", "team/app")
SUBJECT = Digest.of(b"subject")


class Origin:
    """A registry with these pages of its lists."""

    def __init__(self, **pages: object) -> None:
        self._pages = pages

    async def public(self, _: Registry) -> Identity:
        return ANONYMOUS

    async def listing(self, _: Location, endpoint: str, query: str, __: Identity) -> Listing:
        name = endpoint.split("/")[0] + (query.removeprefix("last=") if query else "")
        if name not in self._pages:
            raise OriginNotFound("not here")
        links = ('</v2/team/app/tags/list?last=2>; rel="next"',) if name == "tags" else ()
        return Listing(json.dumps(self._pages[name]).encode(), {}, links)


def reader(origin: Origin) -> ImageReader:
    parts = cast("Admission", None), origin, cast("ManifestFrontend", None)
    return ImageReader(Namer(("registry.test:5000",), AT.registry), *parts)  # type: ignore[arg-type]


async def test_tags_of_all_pages_are_matched_and_ordered() -> None:
    origin = Origin(tags={"tags": ["3.9", "3.20", "latest", "3.19-rc1", "3 x"]}, tags2={"tags": ["3.19", "2.0"]})
    assert await reader(origin).tags(AT, "3*", 3) == ["3.20", "3.19", "3.19-rc1"]


async def test_a_list_of_tags_that_is_none_is_an_error() -> None:
    with pytest.raises(OriginUnavailable):
        await reader(Origin(tags=[1, 2])).tags(AT, "*", 3)


async def test_referrers_are_those_of_the_list_and_those_below_tags() -> None:
    entry = {"digest": Digest.of(b"sbom"), "size": 3, "mediaType": OCI_MANIFEST}
    cosign = [f"sha256-{SUBJECT.hex}.{suffix}" for suffix in ("sig", "att", "sbom")]
    listed = await reader(Origin(referrers={"manifests": [entry]})).referrers(AT, SUBJECT)
    assert listed == [Digest.of(b"sbom"), *cosign]
    assert await reader(Origin()).referrers(AT, SUBJECT) == [f"sha256-{SUBJECT.hex}", *cosign]
    assert await reader(Origin(referrers={"no": "list"})).referrers(AT, SUBJECT) == cosign
