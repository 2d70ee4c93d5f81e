"""What a node reads of images for itself: lists of tags over several pages, and what is about a manifest."""

from __future__ import annotations

import json
from typing import cast

import pytest

from peer.origin import OriginDenied, OriginError, OriginNotFound, OriginUnavailable
from proxy.admission import Admission
from proxy.identity import ANONYMOUS, Identity, node_identity
from proxy.manifests import ManifestFrontend
from proxy.naming import Namer
from proxy.reading import ImageReader
from proxy.upstream import Listing
from shoal.descriptor import OCI_MANIFEST
from shoal.digest import Digest
from shoal.reference import Location, Registry

AT = Location.parse("registry.test:5000", "team/app")
SUBJECT = Digest.of(b"subject")
NODE = node_identity("node", "secret")


class Origin:
    """A registry with these pages of its lists, which `refusal` keeps from those who say nothing."""

    def __init__(self, refusal: OriginError | None = None, node: Identity = ANONYMOUS, **pages: object) -> None:
        self.refusal = refusal
        self.asked: list[Identity] = []
        self._node = node
        self._pages = pages

    async def public(self, _: Registry) -> Identity:
        return ANONYMOUS

    async def node(self, _: Registry) -> Identity:
        return self._node

    async def listing(self, _: Location, endpoint: str, query: str, identity: Identity) -> Listing:
        self.asked.append(identity)
        if self.refusal is not None and identity == ANONYMOUS:
            raise self.refusal
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


@pytest.mark.parametrize("refusal", [OriginDenied("who are you?"), OriginNotFound("hidden")])
async def test_a_registry_that_refuses_everybody_is_asked_as_the_node(refusal: OriginError) -> None:
    origin = Origin(refusal, NODE, tags={"tags": ["1"]}, tags2={"tags": ["2"]})
    images = reader(origin)
    for _ in range(2):
        assert await images.tags(AT, "*", 3) == ["2", "1"]
    assert origin.asked == [ANONYMOUS, NODE, NODE, NODE, NODE]
    with pytest.raises(type(refusal)):
        await reader(Origin(refusal, tags={"tags": ["1"]})).tags(AT, "*", 3)


async def test_what_everybody_may_read_is_asked_for_as_nobody_and_once() -> None:
    """The node's credentials are not used up, and what is not there is not asked for a second time."""
    origin = Origin(None, NODE, tags={"tags": ["1"]}, tags2={"tags": []})
    images = reader(origin)
    await images.tags(AT, "*", 3)
    await images.referrers(AT, SUBJECT)
    assert origin.asked == [ANONYMOUS] * 3
