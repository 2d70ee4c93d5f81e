"""Image references: `[registry/]repository[:tag][@digest]`, with Docker Hub's short forms.

Grammar: OCI distribution specification, "Pulling manifests"; the short forms are docker's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

from shoal.digest import Digest, InvalidDigest

Registry = NewType("Registry", str)
Repository = NewType("Repository", str)
Tag = NewType("Tag", str)

DOCKER_HUB = Registry("docker.io")
MAX_REPOSITORY_LENGTH = 255
_DEFAULT_TAG = Tag("latest")

_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_REGISTRY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:]{2,39}\])(?::[0-9]{1,5})?")


class InvalidReference(ValueError):
    """A string that is not an image reference, or a part of one that is not what it should be."""


def parse_registry(text: str) -> Registry:
    """A registry's host with an optional port, that of https left out; raises `InvalidReference`."""
    if not _REGISTRY.fullmatch(text):
        raise InvalidReference(f"not a registry host: {text[:100]!r}")
    host = text.lower().removesuffix(":443")
    return DOCKER_HUB if host in {"docker.io", "index.docker.io", "registry-1.docker.io"} else Registry(host)


def parse_repository(text: str) -> Repository:
    """A repository's name; raises `InvalidReference`."""
    if len(text) > MAX_REPOSITORY_LENGTH or not _REPOSITORY.fullmatch(text):
        raise InvalidReference(f"not a repository name: {text[:100]!r}")
    return Repository(text)


def parse_tag(text: str) -> Tag:
    """A tag; raises `InvalidReference`."""
    if not _TAG.fullmatch(text):
        raise InvalidReference(f"not a tag: {text[:150]!r}")
    return Tag(text)


def parse_tag_or_digest(text: str) -> Tag | Digest:
    """What stands behind `/manifests/` in a request; raises `InvalidReference`."""
    if ":" not in text:
        return parse_tag(text)
    try:
        return Digest(text)
    except InvalidDigest as error:
        raise InvalidReference(str(error)) from None


def qualify(registry: Registry, repository: Repository) -> Repository:
    """The repository's full name at its registry: Docker Hub keeps `busybox` as `library/busybox`."""
    if registry == DOCKER_HUB and "/" not in repository:
        return Repository(f"library/{repository}")
    return repository


@dataclass(frozen=True, slots=True)
class Reference:
    """An image's full name; the digest, where there is one, decides over the tag."""

    registry: Registry
    repository: Repository
    tag: Tag | None
    digest: Digest | None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse what a person types (`busybox`, `quay.io/a/b:1`, `a/b@sha256:...`); raises `InvalidReference`."""
        name, at, digest_text = text.partition("@")
        digest: Digest | None = None
        if at:
            try:
                digest = Digest(digest_text)
            except InvalidDigest as error:
                raise InvalidReference(str(error)) from None
        head, slash, rest = name.partition("/")
        if slash and _is_host(head):
            registry, path = parse_registry(head), rest
        else:
            registry, path = DOCKER_HUB, name
        repository_text, colon, tag_text = path.partition(":")
        tag = parse_tag(tag_text) if colon else (None if digest else _DEFAULT_TAG)
        return cls(registry, qualify(registry, parse_repository(repository_text)), tag, digest)

    @property
    def target(self) -> Tag | Digest:
        """What to ask the registry's `/manifests/` for."""
        if self.digest is not None:
            return self.digest
        assert self.tag is not None
        return self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        port = "" if _is_host(self.registry) else ":443"  # without it the name would be a part of the repository's
        return f"{self.registry}{port}/{self.repository}{tag}{digest}"


def _is_host(head: str) -> bool:
    """Whether the first part of what a person types is a registry's host."""
    return head == "localhost" or any(mark in head for mark in ".:")


@dataclass(frozen=True, slots=True)
class Location:
    """A repository at its registry: where the origin keeps a blob."""

    registry: Registry
    repository: Repository

    @classmethod
    def parse(cls, registry: str, repository: str) -> Location:
        """Check both parts and put Docker Hub's `library/` in; raises `InvalidReference`."""
        host = parse_registry(registry)
        return cls(host, qualify(host, parse_repository(repository)))
