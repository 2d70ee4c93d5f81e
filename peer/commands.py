"""What the peer's machine wants done. The engine, or the simulator, does it after the decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from peer import wire
from peer.piecemap import StreamId
from peer.uploads import Upload
from shoal.descriptor import BlobKey
from shoal.pieces import PieceSet
from shoal.reference import Location
from supernode import protocol
from supernode.protocol import PeerId


class Send(NamedTuple):
    """Send a message to these neighbours."""

    peers: Sequence[PeerId]
    message: wire.Kinds


class Dial(NamedTuple):
    """Connect to a peer; answered with `arrived` or `unreachable`."""

    peer: PeerId
    host: str
    port: int


class HangUp(NamedTuple):
    """End the connection to a neighbour and have nothing to do with it for `shun` seconds."""

    peer: PeerId
    reason: str
    shun: float


class Serve(NamedTuple):
    """Send a piece; answered with `uploaded` or `unservable`."""

    upload: Upload


class Tell(NamedTuple):
    """Send a message to the supernode."""

    message: protocol.FromPeer


class Fetch(NamedTuple):
    """Fetch pieces `first` to `end - 1` from an origin; answered with `received`, `fetched` and one `fetch_ended`."""

    stream: StreamId
    blob: BlobKey
    location: Location
    first: int
    end: int


class StopFetch(NamedTuple):
    """Let go of a stream; nothing of it is told any more."""

    stream: StreamId


class Land(NamedTuple):
    """Check a piece against `expected` (None: nothing is known of it) and write it; answered with `landed`,
    `corrupt` or `unwritable`. Where it came from: a neighbour or a stream."""

    blob: BlobKey
    piece: int
    content: bytearray
    expected: bytes | None
    source: PeerId | StreamId


class Discard(NamedTuple):
    """Forget pieces that are there: they are not to be trusted."""

    blob: BlobKey
    pieces: PieceSet


class Hold(NamedTuple):
    """Of a blob that passes by the store: what is needed here `now` may land, what is needed `later` waits for that.

    The machine counts the pieces that are there and not needed now as absent, but for those that lie in a file.
    """

    blob: BlobKey
    now: PieceSet
    later: PieceSet


class Fail(NamedTuple):
    """A blob cannot be had. The machine has closed it."""

    blob: BlobKey
    error: Exception


class FailReaders(NamedTuple):
    """One place of a blob has refused it: those who named that place are answered so; others go on."""

    blob: BlobKey
    location: Location
    error: Exception


class Answer(NamedTuple):
    """A reader that waits for its first byte waits no longer: it fails, or it begins where `error` is None."""

    blob: BlobKey
    reader: int
    error: Exception | None


class Park(NamedTuple):
    """No more of a blob is wanted for now: save what there is. The machine has closed it."""

    blob: BlobKey


class TellTable(NamedTuple):
    """Work out the piece digests of a stored blob and tell the supernode."""

    blob: BlobKey


Command = (
    Send
    | Dial
    | HangUp
    | Serve
    | Tell
    | Fetch
    | StopFetch
    | Land
    | Discard
    | Hold
    | Fail
    | FailReaders
    | Answer
    | Park
    | TellTable
)
