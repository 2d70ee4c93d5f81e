"""Descriptors and manifests (OCI image specification, "Content Descriptors", "Image Manifest", "Image Index")."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, NamedTuple

import msgspec

from shoal.digest import Digest, InvalidDigest

MAX_MANIFEST_SIZE = 4 << 20
"""Bytes; the distribution specification asks registries to take manifests up to this size."""

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
SCHEMA1_TYPES = frozenset({DOCKER_SCHEMA1, "application/vnd.docker.distribution.manifest.v1+json"})
"""Manifests of before 2016: their digest is that of a part of them, and their layers' sizes are not said."""

MANIFEST_TYPES = (OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST)
_MAX_ENTRIES = 4096
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
"""RFC 6838, section 4.2."""


class InvalidManifest(ValueError):
    """Content that is not a manifest or an index."""


class BlobKind(StrEnum):
    """Where a registry keeps a blob: below `/blobs/` or below `/manifests/`."""

    BLOB = "blob"
    MANIFEST = "manifest"


class BlobKey(NamedTuple):
    """Which blob is meant as long as its bytes are not verified: two sizes said of one digest are two blobs."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob's identity: its digest, its length in bytes and its media type (may be empty)."""

    digest: Digest
    size: int
    media_type: str = ""
    kind: BlobKind = BlobKind.BLOB

    @property
    def key(self) -> BlobKey:
        return BlobKey(self.digest, self.size)


def parse_media_type(text: str) -> str:
    """A media type without its parameters; empty for what is none, as if nothing had been said."""
    name = text.partition(";")[0].strip()
    return name if _MEDIA_TYPE.fullmatch(name) else ""


class _RawPlatform(msgspec.Struct):
    architecture: str = ""
    os: str = ""
    variant: str = ""


class _RawDescriptor(msgspec.Struct):
    digest: str
    size: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]  # the specification's int64
    mediaType: str = ""  # noqa: N815 - the specification's name
    platform: _RawPlatform | None = None
    urls: list[str] | None = None


class _RawManifest(msgspec.Struct):
    schemaVersion: int = 0  # noqa: N815 - the specification's name
    mediaType: str = ""  # noqa: N815 - the specification's name
    config: _RawDescriptor | None = None
    layers: list[_RawDescriptor] | None = None
    manifests: list[_RawDescriptor] | None = None
    subject: msgspec.Raw = msgspec.Raw()


class _RawSubject(msgspec.Struct):
    digest: str


_DECODER = msgspec.json.Decoder(_RawManifest)
"""Made here, not at the first manifest: msgspec 0.22 crashes where two threads are the first to use a type together."""
_SUBJECT_DECODER = msgspec.json.Decoder(_RawSubject)


@dataclass(frozen=True, slots=True)
class Platform:
    """An index entry's platform, as Go names operating systems and processors."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        """`linux/arm64/v8`."""
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest or an index points to. `blobs` is the configuration, then the layers, in order.

    `subject`: the manifest that this one is about, as a signature is.
    """

    media_type: str
    blobs: tuple[Descriptor, ...] = ()
    children: tuple[tuple[Descriptor, Platform | None], ...] = ()
    subject: Digest | None = None

    @classmethod
    def parse(cls, content: bytes) -> Manifest:
        """Parse a manifest or an index of any known kind; raises `InvalidManifest`."""
        if len(content) > MAX_MANIFEST_SIZE:
            raise InvalidManifest(f"a manifest of {len(content)} bytes is over the limit of {MAX_MANIFEST_SIZE}")
        try:
            raw = _DECODER.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidManifest(f"not a manifest: {error}") from None
        if raw.manifests is not None:
            children = tuple(
                (_descriptor(d, BlobKind.MANIFEST), _platform(d.platform)) for d in _bounded(raw.manifests)
            )
            return cls(parse_media_type(raw.mediaType) or OCI_INDEX, children=children, subject=_subject(raw.subject))
        if raw.config is not None:
            layers = [d for d in _bounded(raw.layers or []) if not d.urls]
            blobs = tuple(_descriptor(d, BlobKind.BLOB) for d in [raw.config, *layers])
            return cls(parse_media_type(raw.mediaType) or OCI_MANIFEST, blobs=blobs, subject=_subject(raw.subject))
        if raw.schemaVersion == 1:
            return cls(DOCKER_SCHEMA1)
        raise InvalidManifest("not a manifest: it has neither `config` nor `manifests`")


def _bounded(entries: list[_RawDescriptor]) -> list[_RawDescriptor]:
    if len(entries) > _MAX_ENTRIES:
        raise InvalidManifest(f"{len(entries)} entries, over the limit of {_MAX_ENTRIES}")
    return entries


def _descriptor(raw: _RawDescriptor, kind: BlobKind) -> Descriptor:
    try:
        digest = Digest(raw.digest)
    except InvalidDigest as error:
        raise InvalidManifest(str(error)) from None
    return Descriptor(digest, raw.size, parse_media_type(raw.mediaType), kind)


def _subject(raw: msgspec.Raw) -> Digest | None:
    """A subject that cannot be read is none: the manifest serves without it."""
    try:
        return Digest(_SUBJECT_DECODER.decode(raw).digest)
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidDigest):
        return None


def _platform(raw: _RawPlatform | None) -> Platform | None:
    return None if raw is None else Platform(raw.os, raw.architecture, raw.variant)
