"""What a request asks for: its path and `ns=`, read as an upstream, a repository and a reference. No I/O.

There are three ways to say the upstream, in this order: `ns=` (containerd), a first path segment that is a configured
registry's host (podman and skopeo, with a mirror `127.0.0.1:5080/docker.io`), and the default upstream (docker).
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from urllib.parse import unquote

from proxy.errors import InvalidDigestInRequest, InvalidName, InvalidTag, UnknownEndpoint, UnknownUpstream
from shoal.digest import Digest, InvalidDigest
from shoal.reference import InvalidReference, Location, Registry, Tag, parse_registry, parse_tag_or_digest

PREFIX = "/v2/"


@dataclass(frozen=True, slots=True)
class ManifestTarget:
    """`/v2/NAME/manifests/REFERENCE`."""

    location: Location
    reference: Tag | Digest


@dataclass(frozen=True, slots=True)
class BlobTarget:
    """`/v2/NAME/blobs/DIGEST`."""

    location: Location
    digest: Digest


@dataclass(frozen=True, slots=True)
class TagsTarget:
    """`/v2/NAME/tags/list`."""

    location: Location


@dataclass(frozen=True, slots=True)
class ReferrersTarget:
    """`/v2/NAME/referrers/DIGEST`."""

    location: Location
    digest: Digest


Target = ManifestTarget | BlobTarget | TagsTarget | ReferrersTarget


@dataclass(frozen=True, slots=True)
class Namer:
    """Reads requests, for the registries `upstreams` and a default among them."""

    upstreams: Container[str]
    default: Registry

    def parse(self, path: str, ns: str | None) -> Target:
        """The target of `path`, as it stands in the request line and begins with `/v2/`; raises `RequestError`."""
        segments = [_decode(segment) for segment in path.removeprefix(PREFIX).split("/")]
        if len(segments) < 3:
            raise UnknownEndpoint(f"not an endpoint of the distribution API: {path[:100]!r}")
        *name, endpoint, last = segments
        match endpoint, last:
            case "manifests", _:
                return ManifestTarget(self.locate(name, ns), _reference(last))
            case "blobs", _:
                return BlobTarget(self.locate(name, ns), _digest(last))
            case "referrers", _:
                return ReferrersTarget(self.locate(name, ns), _digest(last))
            case "tags", "list":
                return TagsTarget(self.locate(name, ns))
        raise UnknownEndpoint(f"not an endpoint of the distribution API: {path[:100]!r}")

    def locate(self, name: list[str], ns: str | None) -> Location:
        """Upstream and repository; raises `InvalidName` or `UnknownUpstream`."""
        try:
            registry, repository = self._split(name, ns)
            location = Location.parse(registry, "/".join(repository))
        except InvalidReference as error:
            raise InvalidName(str(error)) from None
        if location.registry not in self.upstreams:
            raise UnknownUpstream(f"no upstream {location.registry!r} is configured")
        return location

    def _split(self, name: list[str], ns: str | None) -> tuple[str, list[str]]:
        if ns is not None:
            return ns, name
        head, *rest = name
        if rest and (":" in head or head.startswith("[")):  # cannot be a part of a repository's name
            return head, rest
        if rest and "." in head and self._names_upstream(head):
            return head, rest
        if rest and head in self.upstreams:
            return head, rest
        return self.default, name

    def _names_upstream(self, head: str) -> bool:
        try:
            return parse_registry(head) in self.upstreams
        except InvalidReference:
            return False


def _decode(segment: str) -> str:
    """One path segment without percent-encoding, which must not smuggle in what splits or leaves a path."""
    try:
        text = unquote(segment, errors="strict") if "%" in segment else segment
    except UnicodeDecodeError:
        raise InvalidName("the path is not percent-encoded UTF-8") from None
    if text in {"", ".", ".."} or "/" in text or "\\" in text or not text.isprintable():
        raise InvalidName(f"not a segment of a repository's name: {segment[:100]!r}")
    return text


def _reference(text: str) -> Tag | Digest:
    try:
        return parse_tag_or_digest(text)
    except InvalidReference as error:
        if ":" in text:
            raise InvalidDigestInRequest(str(error)) from None
        raise InvalidTag(str(error)) from None


def _digest(text: str) -> Digest:
    try:
        return Digest(text)
    except InvalidDigest as error:
        raise InvalidDigestInRequest(str(error)) from None
