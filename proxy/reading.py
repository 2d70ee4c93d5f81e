"""What this node reads of images for itself: as itself, and within the rules that hold for its clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Protocol, TypeVar

import msgspec

from peer.origin import OriginDenied, OriginError, OriginNotFound, OriginUnavailable
from proxy.admission import Admission, enforce
from proxy.identity import Identity
from proxy.links import parse_links
from proxy.listings import ListingOrigin
from proxy.manifests import ManifestFrontend
from proxy.naming import ManifestTarget, Namer
from shoal.descriptor import Descriptor, InvalidManifest, Manifest
from shoal.digest import Digest
from shoal.recent import Recent
from shoal.reference import InvalidReference, Location, Reference, Registry, Tag, parse_tag
from shoal.tagorder import newest

_MAX_PAGES = 256
_MAX_ENCODED = 64
"""Hexadecimal digits of a digest in the tag that stands in for a list of referrers (distribution specification)."""
_COSIGN = ("sig", "att", "sbom")
"""Suffixes of the tags under which cosign keeps signatures, attestations and SBOMs of a manifest."""
_MAX_LOCATIONS = 4096
T = TypeVar("T")


class _TagList(msgspec.Struct):
    tags: list[str] | None = None


class Origin(ListingOrigin, Protocol):
    """Where images come from (`proxy.upstream.UpstreamClient` implements it)."""

    async def public(self, registry: Registry) -> Identity:
        """As whom clients that say nothing are served; raises `OriginDenied` for a registry that is not stood for."""

    async def node(self, registry: Registry) -> Identity:
        """As whom this node itself asks: nobody where it has no credentials. Raises `OriginDenied`."""


class ImageReader:
    """Reads manifests, what refers to them, and lists of tags. All raise `OriginError`, and `RequestError` for what
    this mirror does not stand for or its rules forbid.

    The registry is asked as those are who say nothing, so that what they may read is theirs without another question,
    and as this node where they are refused; of the same repository as this node at once then.
    """

    def __init__(self, namer: Namer, admission: Admission, origin: Origin, manifests: ManifestFrontend) -> None:
        self._namer = namer
        self._admission = admission
        self._origin = origin
        self._manifests = manifests
        self._closed: Recent[Location, bool] = Recent(_MAX_LOCATIONS)
        """Repositories of which something was given: whether to this node alone."""

    def locate(self, reference: Reference) -> Location:
        """The repository of an image that may be pulled here."""
        location = Location(self._namer.registry(reference.registry), reference.repository)
        enforce(self._admission.check(location, reference.target), location, reference.target)
        return location

    async def manifest(self, location: Location, reference: Tag | Digest) -> tuple[Descriptor, Manifest]:
        """A manifest, which is stored then, and what it names; raises `InvalidManifest` and `DownloadFailed`."""
        target = ManifestTarget(location, reference)
        found, content = await self._ask(location, partial(self._manifests.read, target))
        return found, Manifest.parse(content)

    async def referrers(self, location: Location, subject: Digest) -> list[Tag | Digest]:
        """Manifests that are about another one, as far as the registry tells: by the distribution API or the tag that
        stands in for it, and by cosign's tags. Those of tags may not be there."""
        stem = f"{subject.algorithm}-{subject.hex[:_MAX_ENCODED]}"
        tags = [parse_tag(f"{stem}.{suffix}") for suffix in _COSIGN]
        found: list[Tag | Digest] = []
        try:
            async for page in self._pages(location, f"referrers/{subject}"):
                found += [child.digest for child, _ in _index(page).children]
        except OriginNotFound:
            tags.insert(0, parse_tag(stem))
        return [*found, *tags]

    async def tags(self, location: Location, pattern: str, most: int) -> list[Tag]:
        """The newest tags of a repository that match a pattern, as their versions go."""
        matching: list[str] = []
        async for page in self._pages(location, "tags/list"):
            try:
                listed = msgspec.json.decode(page, type=_TagList).tags or []
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise OriginUnavailable(f"{location.registry} sent no list of tags: {error}") from None
            matching = newest([*matching, *(tag for tag in listed if fnmatchcase(tag, pattern) and _is_tag(tag))], most)
        return [Tag(tag) for tag in matching]

    async def _pages(self, location: Location, endpoint: str) -> AsyncIterator[bytes]:
        """A registry's list, page by page."""
        query = ""
        for _ in range(_MAX_PAGES):
            listing = await self._ask(location, partial(self._origin.listing, location, endpoint, query))
            yield listing.body
            following = [link.target for link in parse_links(listing.links) if "next" in link.relations]
            if not following:
                return
            query = following[0].partition("#")[0].partition("?")[2]

    async def _ask(self, location: Location, question: Callable[[Identity], Awaitable[T]]) -> T:
        """The registry's answer to whoever is given one."""
        asked: list[Identity] = []
        refused: OriginError | None = None
        is_closed = self._closed.get(location, False)
        for as_node in (is_closed, not is_closed):
            whose = self._origin.node if as_node else self._origin.public
            identity = await whose(location.registry)
            if identity in asked:
                continue
            asked.append(identity)
            try:
                answer = await question(identity)
            except OriginDenied as error:
                refused = error
            except OriginNotFound as error:
                if self._closed.get(location) is as_node:
                    raise
                refused = error  # some registries say so to whom they hide a repository
            else:
                self._closed.put(location, as_node)
                return answer
        assert refused is not None  # somebody was asked
        raise refused


def _index(content: bytes) -> Manifest:
    """A list of referrers; one that is none has none."""
    try:
        return Manifest.parse(content)
    except InvalidManifest:
        return Manifest("")


def _is_tag(text: str) -> bool:
    try:
        parse_tag(text)
    except InvalidReference:
        return False
    return True
