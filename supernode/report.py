"""What nodes tell of themselves while somebody looks at the cluster: two messages of the control protocol.

A peer says in its `Hello` that it reports; only then is it sent `Watch`, and only who was sent `Watch` sends `Report`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from shoal.messages import Bitfield, BlobRef, BlobSize, DigestText, Message

MAX_WATCHED, MAX_TRANSFERS = 4, 256
"""Blobs that are looked at closely at a time, and sources of one of them."""
MAX_IMAGES, MAX_NAMES, MAX_PARTS = 256, 8, 512
"""Images of one report, names of one image, and blobs that one manifest names."""
MAX_REGISTRIES = 64
MAX_REPORT_SIZE = 256 << 10
"""Bytes of one report, encoded: the last one of each node is kept."""

MAX_TEXT = 128
"""Characters of a media type or a platform."""

_Text = Annotated[str, msgspec.Meta(max_length=512)]
_Short = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Watch(Message, frozen=True):
    """Asks a peer for a `Report` each `interval` seconds, until another `Watch` says otherwise."""

    interval: Annotated[float, msgspec.Meta(ge=0.1, le=3600)]
    blobs: Annotated[list[BlobRef], msgspec.Meta(max_length=MAX_WATCHED)] = msgspec.field(default_factory=list)
    """Of these, each report tells the pieces and from where they come."""
    images: bool = False
    """Whether reports tell which images the node has, when that has changed."""
    manifests: Annotated[list[DigestText], msgspec.Meta(max_length=MAX_WATCHED)] = msgspec.field(default_factory=list)
    """Of these, where the node has them, the next report tells what they name."""


class OriginUse(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One registry as a node has met it. `limit` and `remaining`: requests, as it said last."""

    registry: _Text
    bytes: _Number = 0
    """That have come from there since the node began."""
    limit: _Number | None = None
    remaining: _Number | None = None


class Transfer(msgspec.Struct, frozen=True, gc=False):
    """From where pieces of one blob come: a peer's identity, or a registry. `rate`: bytes/s since the last report."""

    source: _Text
    is_origin: bool
    rate: _Number


class WatchedBlob(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A blob that is on its way to a node."""

    digest: DigestText
    size: BlobSize
    have: Bitfield = b""
    transfers: Annotated[list[Transfer], msgspec.Meta(max_length=MAX_TRANSFERS)] = msgspec.field(default_factory=list)


class HeldImage(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An image of which a node has the manifest. `stored`: bytes of it that are there."""

    digest: DigestText
    stored: _Number
    complete: bool = False
    """Whether all that its stored manifests name is there."""
    pinned: bool = False
    names: Annotated[list[_Text], msgspec.Meta(max_length=MAX_NAMES)] = msgspec.field(default_factory=list)
    """What the node knows it by, as `docker.io/library/alpine:3.20`."""


class Part(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A blob that a manifest names. `platform` is empty but in an index."""

    digest: DigestText
    size: _Number
    media_type: _Short = ""
    platform: _Short = ""


class ManifestParts(msgspec.Struct, frozen=True, gc=False):
    """What one manifest names, in its order."""

    digest: DigestText
    media_type: _Short
    parts: Annotated[list[Part], msgspec.Meta(max_length=MAX_PARTS)]


class Report(Message, frozen=True):
    """One node at one moment; bytes and requests are counted since it began."""

    uptime: _Seconds
    peers_in: _Number = 0
    peers_out: _Number = 0
    served_store: _Number = 0
    """Bytes given to clients that were stored before they asked."""
    served_peers: _Number = 0
    """Those that came from peers meanwhile."""
    served_origin: _Number = 0
    """Those that came from the origin meanwhile."""
    requests: _Number = 0
    """Of clients."""
    origins: Annotated[list[OriginUse], msgspec.Meta(max_length=MAX_REGISTRIES)] = msgspec.field(default_factory=list)
    stored: _Number = 0
    """Bytes in the store, with those of blobs that are on their way to it."""
    stored_limit: _Number = 0
    """Bytes over which the store gives something up."""
    disk_free: _Number = 0
    pinned: _Number = 0
    blobs: _Number = 0
    downloads: _Number = 0
    """Blobs on their way now."""
    neighbours: _Number = 0
    watched: Annotated[list[WatchedBlob], msgspec.Meta(max_length=MAX_WATCHED)] = msgspec.field(default_factory=list)
    images: Annotated[list[HeldImage], msgspec.Meta(max_length=MAX_IMAGES)] | None = None
    """None: as in the report before."""
    manifests: Annotated[list[ManifestParts], msgspec.Meta(max_length=MAX_WATCHED)] = msgspec.field(
        default_factory=list
    )
