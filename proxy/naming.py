"""What a request asks for: its path and `ns=`, read as an upstream, a repository and a reference. No I/O.

There are three ways to say the upstream, in this order: `ns=` (containerd), a first path segment that is a configured
registry's host (podman and skopeo, with a mirror `127.0.0.1:5080/docker.io`), and the default upstream (docker).
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from proxy.errors import InvalidDigestInRequest, InvalidName, InvalidTag, UnknownEndpoint, UnknownUpstream
from shoal.digest import Digest, InvalidDigest
from shoal.reference import InvalidReference, Location, Registry, Tag, parse_registry, parse_tag_or_digest

PREFIX = "/v2/"

_PUBLIC_NAME = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
_PRIVATE_DOMAINS = (".localhost", ".local", ".internal", ".lan", ".home", ".corp", ".intranet", ".private", ".arpa")
"""Domains whose names mean something else in each network, by standard or by habit."""


@dataclass(frozen=True, slots=True)
class ManifestTarget:
    """`/v2/NAME/manifests/REFERENCE`."""

    location: Location
    reference: Tag | Digest

    @property
    def registry(self) -> Registry:
        return self.location.registry


@dataclass(frozen=True, slots=True)
class BlobTarget:
    """`/v2/NAME/blobs/DIGEST`."""

    location: Location
    digest: Digest

    @property
    def registry(self) -> Registry:
        return self.location.registry


@dataclass(frozen=True, slots=True)
class TagsTarget:
    """`/v2/NAME/tags/list`."""

    location: Location

    @property
    def registry(self) -> Registry:
        return self.location.registry


@dataclass(frozen=True, slots=True)
class ReferrersTarget:
    """`/v2/NAME/referrers/DIGEST`."""

    location: Location
    digest: Digest

    @property
    def registry(self) -> Registry:
        return self.location.registry


@dataclass(frozen=True, slots=True)
class CatalogTarget:
    """`/v2/_catalog`."""

    registry: Registry


Target = ManifestTarget | BlobTarget | TagsTarget | ReferrersTarget | CatalogTarget


@dataclass(frozen=True, slots=True)
class Namer:
    """Reads requests, for the registries `upstreams` and a default among them.

    `aliases` are first path segments that mean one of them; `takes_any`: all with public names are stood for.
    """

    upstreams: Container[str]
    default: Registry
    aliases: Mapping[str, Registry] = field(default_factory=dict)
    takes_any: bool = False

    def parse(self, path: str, ns: str | None) -> Target:
        """The target of `path`, as it stands in the request line and begins with `/v2/`; raises `RequestError`."""
        segments = [_decode(segment) for segment in path.removeprefix(PREFIX).split("/")]
        if segments[-1] == "_catalog" and len(segments) <= 2:
            return CatalogTarget(self.registry(segments[0] if len(segments) == 2 else ns))
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
        self._check(location.registry)
        return location

    def registry(self, text: str | None) -> Registry:
        """The upstream that `ns=` or a path's first segment names; raises `InvalidName` or `UnknownUpstream`."""
        if text is None:
            return self.default
        try:
            registry = self.aliases.get(text) or parse_registry(text)
        except InvalidReference as error:
            raise InvalidName(str(error)) from None
        self._check(registry)
        return registry

    def _check(self, registry: Registry) -> None:
        if not self._is_stood_for(registry):
            raise UnknownUpstream(f"no upstream {registry!r} is configured")

    def _is_stood_for(self, registry: Registry) -> bool:
        return registry in self.upstreams or (self.takes_any and is_public_name(registry))

    def _split(self, name: list[str], ns: str | None) -> tuple[str, list[str]]:
        head, *rest = name
        named = self._named_by(head) if rest else None
        if ns is not None:
            # some clients say it twice: with a mirror's path that ends in the registry's name
            return ns, rest if named is not None and named == parse_registry(ns) else name
        if named is not None:
            return named, rest
        if rest and (":" in head or head.startswith("[")):  # cannot be a part of a repository's name
            return head, rest
        return self.default, name

    def _named_by(self, head: str) -> Registry | None:
        """The registry that a path's first segment names, if it names one that is stood for."""
        if head in self.aliases:
            return self.aliases[head]
        try:
            registry = parse_registry(head)
        except InvalidReference:
            return None
        # a name without a dot or a port may as well be the beginning of a repository's name
        is_host = any(mark in head for mark in ".:") or head in self.upstreams
        return registry if is_host and self._is_stood_for(registry) else None


def is_public_name(registry: Registry) -> bool:
    """Whether a registry's name can be one of the open Internet: a domain's, at the port of https."""
    host, _, port = registry.partition(":")
    return port in {"", "443"} and _PUBLIC_NAME.fullmatch(host) is not None and not host.endswith(_PRIVATE_DOMAINS)


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
