"""The control protocol between a peer and the supernode: msgpack messages on one WebSocket for each peer.

Sets of pieces travel as bitfields (`shoal.pieces`), piece digests as their 16 bytes one behind the other.
"""

from __future__ import annotations

import re
from typing import Annotated, NewType

import msgspec

from shoal.limits import MOST_LIMIT
from shoal.messages import (
    Bitfield,
    BlobRef,
    BlobSize,
    Codec,
    DigestText,
    InvalidMessage,
    Message,
    PieceCount,
    PieceDigests,
    PieceNumber,
)
from supernode.report import Report, Watch

VERSION = 2
PATH = "/v1/control"
NOT_SPOKEN = "is not spoken here"
"""In the reason of a refusal for another version's sake."""
MAX_MESSAGE_SIZE = 4 << 20
"""Bytes of one control message in either direction."""
MAX_BLOBS = 1024
"""Blobs in one message."""
MAX_LABELS = 16
MAX_PLATFORMS = 16
"""Platforms of one preheat."""
PROVISIONAL_SECONDS = 10.0
"""How long one member's word on a reference is given to others before a second one has confirmed it."""

PeerId = NewType("PeerId", str)
LeaseId = NewType("LeaseId", int)

_PEER_ID = re.compile(r"[0-9a-f]{32}")
_Text = Annotated[str, msgspec.Meta(max_length=512)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
_Label = Annotated[str, msgspec.Meta(max_length=128)]
_Image = Annotated[str, msgspec.Meta(max_length=1024)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
_Rate = Annotated[float, msgspec.Meta(ge=0, le=MOST_LIMIT)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_AtMost = msgspec.Meta(max_length=MAX_BLOBS)


def parse_peer_id(text: str) -> PeerId:
    """A peer's identity: 32 lower-case hexadecimal digits; raises `InvalidMessage`."""
    if not _PEER_ID.fullmatch(text):
        raise InvalidMessage(f"not a peer id: {text[:64]!r}")
    return PeerId(text)


class Wanted(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A blob that a peer opens, and one place where an origin keeps it. A blob with several places is told for each."""

    digest: DigestText
    size: BlobSize
    registry: _Text
    repository: _Text
    have: Bitfield = b""
    """The pieces that the peer has."""
    coming: Bitfield = b""
    """The pieces that come to it from an origin."""
    origin: bool = True
    """Whether this peer may fetch from that place."""
    on_demand: bool = False
    """Whether this peer wants leases over nothing but what it says that it starves for."""
    preheats: bool = False
    """Whether no client of this peer waits for it: what clients wait for goes before it."""


class Held(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A blob of which a peer has pieces; `have` is empty where it has the whole, verified blob."""

    digest: DigestText
    size: BlobSize
    have: Bitfield = b""
    coming: Bitfield = b""
    """The pieces that come to it from an origin without a lease."""


class Neighbour(msgspec.Struct, frozen=True, gc=False):
    """A peer to exchange pieces with."""

    peer: _Text
    host: _Text
    port: _Port


# --- from a peer ---------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """First message of a connection. `host` is empty where the supernode is to take the connection's address."""

    version: _Number
    peer: _Text
    port: _Port
    host: _Text = ""
    zone: _Text = ""
    returning: bool = False
    """Whether a supernode has known this peer before: others that it knew are coming back too."""
    confirms: bool = False
    """Whether this peer answers `Confirm`, and says of which pieces of its leases it has second-hand knowledge."""
    visits: bool = False
    """Whether this peer answers `Visit`."""
    is_limited: bool = False
    """Whether this peer takes `Limits`."""
    reports: bool = False
    """Whether this peer answers `Watch`."""
    preheats: bool = False
    """Whether this peer takes `Preheat`, `CancelPreheat`, `KeepPins` and `ListTags`."""

    name: _Label = ""
    """What people call its node."""
    labels: Annotated[dict[_Label, _Label], msgspec.Meta(max_length=MAX_LABELS)] = msgspec.field(default_factory=dict)
    """By what people choose its node among others."""
    software: _Label = ""
    """The version that it runs."""


class Open(Message, frozen=True):
    """The peer wants these blobs, the first one first; answered with a `Handout` for each."""

    blobs: Annotated[list[Wanted], _AtMost]


class Announce(Message, frozen=True):
    """What the peer has now, over all its swarms; also tells that it is alive."""

    blobs: Annotated[list[Held], _AtMost] = msgspec.field(default_factory=list)


class Close(Message, frozen=True):
    """The peer has no piece of these blobs any more and wants none."""

    blobs: Annotated[list[BlobRef], _AtMost]


class Seek(Message, frozen=True):
    """The peer has lost neighbours of these blobs; answered with a `Handout` for each."""

    blobs: Annotated[list[BlobRef], _AtMost]


class Starved(Message, frozen=True):
    """A reader waits for these pieces, and no neighbour that has them gives them: the peer asks for leases."""

    digest: DigestText
    size: BlobSize
    pieces: Bitfield


class Progress(Message, frozen=True):
    """Pieces of a lease that its holder has, from `first` on, and their digests. Without any: that bytes of the next
    one come, slowly."""

    lease: _Number
    first: PieceNumber
    digests: PieceDigests
    second_hand: bool = False
    """Whether its holder has them from neighbours, so that it has their digests from others as well."""


class Release(Message, frozen=True):
    """The holder gives a lease back before its end; `reason` is one of the values of `ReleaseReason`."""

    lease: _Number
    reason: _Text


class Trimmed(Message, frozen=True):
    """The answer to `Trim`: the lease ends before piece `end`, which may lie behind what was asked for: what has come
    already, or is coming, is kept."""

    lease: _Number
    end: PieceCount


class Table(Message, frozen=True):
    """The answer to `NeedTable`: digests of the pieces that are set in `pieces`, in ascending order."""

    digest: DigestText
    size: BlobSize
    pieces: Bitfield
    digests: PieceDigests


class Corrupt(Message, frozen=True):
    """All pieces matched their digests and the whole blob did not match its own."""

    digest: DigestText
    size: BlobSize


class Resolve(Message, frozen=True):
    """Asks what a tag (or a digest without a known size) stands for; answered with `Resolved` of the same `query`."""

    query: _Number
    registry: _Text
    repository: _Text
    reference: _Text
    kind: _Text
    identity: _Text = ""
    """As whom the origin is asked: what it says to one need not be what it says to others."""

    max_age: _Seconds = 1e9


class Publish(Message, frozen=True):
    """What the origin said, by a peer that had to ask it. `digest` is empty where the origin could not be asked.

    Where it is `missing`, the origin said that there is nothing; where it is `denied`, that this identity may not read.
    """

    registry: _Text
    repository: _Text
    reference: _Text
    kind: _Text
    digest: _Text = ""
    size: BlobSize = 0
    media_type: _Text = ""
    identity: _Text = ""
    missing: bool = False
    denied: bool = False


class Probe(Message, frozen=True):
    """Asks whether other members can connect to this peer; answered with `Probed` of the same `query`. Not to be sent
    to a supernode whose `Welcome` does not say that it `probes`."""

    query: _Number


class Visited(Message, frozen=True):
    """The answer to `Visit`; `outcome` is one of the values of `Outcome`."""

    visit: _Number
    outcome: _Text


class ReleaseReason:
    """Why a lease comes back."""

    FAILED = "failed"
    DENIED = "denied"
    NO_RANGE = "no-range"
    CLOSED = "closed"


class Outcome:
    """What came of connecting to another peer."""

    REACHED = "reached"
    REFUSED = "refused"
    """Something there says that nobody listens."""
    SILENT = "silent"
    """No answer in time: a firewall, a wrong address or a machine that is down."""
    UNROUTED = "unrouted"
    """The network knows no way there."""
    UNRESOLVED = "unresolved"
    """Its host is a name that has no address."""
    STRANGER = "stranger"
    """Somebody answers and does not prove to be that member of this cluster."""


OUTCOMES = frozenset(
    (
        Outcome.REACHED,
        Outcome.REFUSED,
        Outcome.SILENT,
        Outcome.UNROUTED,
        Outcome.UNRESOLVED,
        Outcome.STRANGER,
    )
)


# --- from the supernode --------------------------------------------------------------------------------------------


class Welcome(Message, frozen=True):
    """The peer is registered; it announces itself at least every `announce_interval` seconds."""

    version: _Number
    announce_interval: Annotated[float, msgspec.Meta(gt=0, le=3600)]
    probes: bool = False
    """Whether this supernode answers `Probe`."""


class Refused(Message, frozen=True):
    """The connection ends; `reason` is for people."""

    reason: _Text


class Limits(Message, frozen=True):
    """What a peer lets through at most where its own node says nothing, in bytes per second; 0: no limit. It takes the
    place of what was told before. Sent to peers that say that they take it (`Hello.is_limited`)."""

    upload: _Rate | None = None
    download: _Rate | None = None
    origin: _Rate | None = None
    preheat: _Rate | None = None


class BlobRefused(Message, frozen=True):
    """The supernode has no place for this blob of this peer: its pieces have to come without it."""

    digest: DigestText
    size: BlobSize
    reason: _Text


class Handout(Message, frozen=True):
    """Neighbours for one swarm."""

    digest: DigestText
    size: BlobSize
    neighbours: Annotated[list[Neighbour], _AtMost]


class TableNews(Message, frozen=True):
    """Digests of the pieces that are set in `pieces`, in ascending order."""

    digest: DigestText
    size: BlobSize
    pieces: Bitfield
    digests: PieceDigests


class Grant(Message, frozen=True):
    """The right to fetch `count` pieces from `first` on from this place, for one holder at a time."""

    lease: _Number
    digest: DigestText
    size: BlobSize
    registry: _Text
    repository: _Text
    first: PieceNumber
    count: PieceCount


class Trim(Message, frozen=True):
    """A lease is to end before piece `end`; what its holder does not keep (`Trimmed`) is for others."""

    lease: _Number
    end: PieceCount


class Revoke(Message, frozen=True):
    """A lease is over."""

    lease: _Number


class NeedTable(Message, frozen=True):
    """Asks a peer for the piece digests of a blob of which it has pieces."""

    digest: DigestText
    size: BlobSize


class Void(Message, frozen=True):
    """Piece digests of a blob are not to be trusted, nor are pieces that were checked by them: those of `pieces`, or
    all where it is empty."""

    digest: DigestText
    size: BlobSize
    pieces: Bitfield = b""


class Quiet(Message, frozen=True):
    """An upstream has answered 429: it is to be left alone for so many seconds. Told by a peer, and then to all."""

    registry: _Text
    seconds: _Seconds


class Refresh(Message, frozen=True):
    """Somebody wants the origin to be asked anew for all of a repository. Told by a peer, and then to all.

    `denied` is the supernode's word alone: the identity that the origin has refused there, where it let it read before.
    """

    registry: _Text
    repository: _Text
    denied: _Text = ""


class Resolved(Message, frozen=True):
    """`state` is `fresh` (the answer is here), `missing` (the origin has nothing), `ask` (ask the origin and publish)
    or `failed` (ask it for yourself). The last two bring what was known last, for when the origin is silent."""

    query: _Number
    state: _Text
    digest: _Text = ""
    size: BlobSize = 0
    media_type: _Text = ""
    provisional: bool = False
    """Whether one member alone says so yet: not to be kept for long."""


class Confirm(Message, frozen=True):
    """Asks a peer for what the origin says to itself, for nobody's sake that waits; answered with `Publish`."""

    registry: _Text
    repository: _Text
    reference: _Text
    kind: _Text
    identity: _Text = ""


class Visit(Message, frozen=True):
    """Asks a peer whether it can connect to another member at the address that others are told of it; the connection
    ends when both have proved their membership. Sent to peers that say that they do it (`Hello.visits`)."""

    visit: _Number
    peer: _Text
    host: _Text
    port: _Port


class Call(msgspec.Struct, frozen=True, gc=False):
    """What came of one member's visit, and where others are told to find that member."""

    peer: _Text
    host: _Text
    port: _Port
    outcome: _Text


class Probed(Message, frozen=True):
    """The answer to `Probe`: `host` and `port` are where others are told to find this peer, and `elsewhere` is the
    number of members at other hosts. Without `calls` nobody could be asked."""

    query: _Number
    host: _Text
    port: _Port
    elsewhere: _Number
    calls: Annotated[list[Call], _AtMost] = msgspec.field(default_factory=list)


class Preheat(Message, frozen=True):
    """The peer is to get an image while no client waits for it, and to tell how it goes by `PreheatProgress`.

    One that has it already says so; one that is at it goes on, and tells at once where it stands.
    """

    job: _Text
    image: _Image
    """Its reference."""
    platforms: Annotated[list[_Label], msgspec.Meta(max_length=MAX_PLATFORMS)] = msgspec.field(default_factory=list)
    """Those of an image for several: its own where nothing is said, `all` for all."""
    pin: _Image = ""
    """The name under which the image is pinned then; empty: not at all."""
    rate: _Number = 0
    """Bytes per second at most of all that it preheats; 0: its own limit alone."""
    referrers: bool = True
    """Whether signatures, SBOMs and whatever else refers to the image are wanted as well."""


class CancelPreheat(Message, frozen=True):
    """The peer is to stop with an image of a job. What is complete stays."""

    job: _Text
    image: _Image


class KeepPins(Message, frozen=True):
    """Of the pins whose names begin with `owner` and a blank, these are to stay."""

    owner: _Text
    names: Annotated[list[_Image], _AtMost] = msgspec.field(default_factory=list)


class ListTags(Message, frozen=True):
    """Asks for the tags of a repository that match a pattern (`*`, `?`, `[...]`); answered with `Tags`."""

    query: _Number
    registry: _Text
    repository: _Text
    pattern: _Label


class PreheatProgress(Message, frozen=True):
    """How it goes with an image of a job, told each second at most while something comes.

    `state` is one of the values of `PreheatState`. The digest is what the reference stands for; it is told with `done`,
    when the node has seen that each blob of the image lies in its store, verified.
    """

    job: _Text
    image: _Image
    state: _Label
    arrived: _Number = 0
    """Bytes that are on the node, of `size` bytes as far as is known by now."""
    size: _Number = 0
    blobs: _Number = 0
    referrers: _Number = 0
    """Manifests of signatures and the like among what was got."""
    digest: _Text = ""
    error: _Text = ""
    """Why it failed, for people."""
    again: bool = False
    """Whether it may go well the next time."""


class Tags(Message, frozen=True):
    """The answer to `ListTags`."""

    query: _Number
    tags: Annotated[list[_Label], _AtMost] = msgspec.field(default_factory=list)
    error: _Text = ""


class PreheatState:
    """Where a node stands with an image."""

    WAITING = "waiting"
    """For other images that the node preheats."""
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


FromPeer = (
    Hello
    | Open
    | Announce
    | Close
    | Seek
    | Starved
    | Progress
    | Release
    | Trimmed
    | Table
    | Corrupt
    | Resolve
    | Publish
    | Quiet
    | Refresh
    | Probe
    | Visited
    | Report
    | PreheatProgress
    | Tags
)
FromSupernode = (
    Welcome
    | Refused
    | Limits
    | BlobRefused
    | Handout
    | TableNews
    | Grant
    | Trim
    | Revoke
    | NeedTable
    | Void
    | Resolved
    | Confirm
    | Quiet
    | Refresh
    | Visit
    | Probed
    | Watch
    | Preheat
    | CancelPreheat
    | KeepPins
    | ListTags
)

from_peer: Codec[FromPeer] = Codec(FromPeer, MAX_MESSAGE_SIZE)
from_supernode: Codec[FromSupernode] = Codec(FromSupernode, MAX_MESSAGE_SIZE)
