"""The control protocol between a peer and the supernode: msgpack messages on one WebSocket for each peer.

Sets of pieces travel as bitfields (`shoal.pieces`), piece digests as their 16 bytes one behind the other.
"""

from __future__ import annotations

import re
from typing import Annotated, NewType

import msgspec

from shoal.messages import Codec, InvalidMessage, Message

VERSION = 1
PATH = "/v1/control"
MAX_MESSAGE_SIZE = 4 << 20
"""Bytes of one control message in either direction."""

PeerId = NewType("PeerId", str)
LeaseId = NewType("LeaseId", int)

_PEER_ID = re.compile(r"[0-9a-f]{32}")
_Text = Annotated[str, msgspec.Meta(max_length=512)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


def parse_peer_id(text: str) -> PeerId:
    """A peer's identity: 32 lower-case hexadecimal digits; raises `InvalidMessage`."""
    if not _PEER_ID.fullmatch(text):
        raise InvalidMessage(f"not a peer id: {text[:64]!r}")
    return PeerId(text)


class Wanted(msgspec.Struct, frozen=True, omit_defaults=True):
    """A blob that a peer opens: what it is, where the origin keeps it, which pieces the peer has."""

    digest: _Text
    size: _Count
    registry: _Text
    repository: _Text
    have: bytes = b""
    origin: bool = True
    """Whether this peer may fetch from the origin."""


class Held(msgspec.Struct, frozen=True, omit_defaults=True):
    """A blob of which a peer has pieces; `have` is empty where it has all of them."""

    digest: _Text
    size: _Count
    have: bytes = b""


class Neighbour(msgspec.Struct, frozen=True):
    """A peer to exchange pieces with."""

    peer: _Text
    host: _Text
    port: _Port


# --- from a peer ---------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """First message of a connection. `host` is empty where the supernode is to take the connection's address."""

    version: int
    peer: _Text
    port: _Port
    host: _Text = ""
    zone: _Text = ""


class Open(Message, frozen=True):
    """The peer wants these blobs, the first one first; answered with a `Handout` for each."""

    blobs: list[Wanted]


class Announce(Message, frozen=True):
    """What the peer has now, over all its swarms; also tells that it is alive."""

    blobs: list[Held] = msgspec.field(default_factory=list)


class Close(Message, frozen=True):
    """The peer has no piece of these blobs any more and wants none."""

    digests: list[_Text]


class Progress(Message, frozen=True):
    """Pieces that a lease's holder has fetched, from `first` on, and their digests."""

    lease: _Count
    first: _Count
    digests: bytes


class Release(Message, frozen=True):
    """The holder gives a lease back before its end; `reason` is one of the values of `ReleaseReason`."""

    lease: _Count
    reason: _Text


class Table(Message, frozen=True):
    """The answer to `NeedTable`: digests of the pieces that are set in `pieces`, in ascending order."""

    digest: _Text
    size: _Count
    pieces: bytes
    digests: bytes


class Corrupt(Message, frozen=True):
    """All pieces matched their digests and the whole blob did not match its own."""

    digest: _Text


class Resolve(Message, frozen=True):
    """Asks what a tag (or a digest without a known size) stands for; answered with `Resolved` of the same `query`."""

    query: _Count
    registry: _Text
    repository: _Text
    reference: _Text
    kind: _Text


class Publish(Message, frozen=True):
    """What the origin said, by the peer that had to ask it. `digest` is empty where the origin could not be asked."""

    registry: _Text
    repository: _Text
    reference: _Text
    kind: _Text
    digest: _Text = ""
    size: _Count = 0
    media_type: _Text = ""


class ReleaseReason:
    """Why a lease comes back."""

    FAILED = "failed"
    DENIED = "denied"
    NO_RANGE = "no-range"
    CLOSED = "closed"
    CORRUPT = "corrupt"


# --- from the supernode --------------------------------------------------------------------------------------------


class Welcome(Message, frozen=True):
    """The peer is registered; it announces itself at least every `announce_interval` seconds."""

    version: int
    announce_interval: float


class Refused(Message, frozen=True):
    """The connection ends; `reason` is for people."""

    reason: _Text


class Handout(Message, frozen=True):
    """Neighbours for one swarm."""

    digest: _Text
    neighbours: list[Neighbour]


class PieceDigests(Message, frozen=True):
    """Digests of the pieces that are set in `pieces`, in ascending order."""

    digest: _Text
    pieces: bytes
    digests: bytes


class Grant(Message, frozen=True):
    """The right to fetch `count` pieces from `first` on from the origin, for one holder at a time."""

    lease: _Count
    digest: _Text
    first: _Count
    count: _Count


class Trim(Message, frozen=True):
    """A lease now ends before piece `end`; what lies behind is somebody else's."""

    lease: _Count
    end: _Count


class Revoke(Message, frozen=True):
    """A lease is over."""

    lease: _Count


class NeedTable(Message, frozen=True):
    """Asks a peer for the piece digests of a blob of which it has pieces."""

    digest: _Text


class Void(Message, frozen=True):
    """The piece digests of a blob are not to be trusted: drop its pieces and start again."""

    digest: _Text


class Resolved(Message, frozen=True):
    """`state` is `fresh` (the answer is here), `ask` (ask the origin and publish) or `failed` (ask it for yourself)."""

    query: _Count
    state: _Text
    digest: _Text = ""
    size: _Count = 0
    media_type: _Text = ""


FromPeer = Hello | Open | Announce | Close | Progress | Release | Table | Corrupt | Resolve | Publish
FromSupernode = Welcome | Refused | Handout | PieceDigests | Grant | Trim | Revoke | NeedTable | Void | Resolved

from_peer: Codec[FromPeer] = Codec(FromPeer, MAX_MESSAGE_SIZE)
from_supernode: Codec[FromSupernode] = Codec(FromSupernode, MAX_MESSAGE_SIZE)
