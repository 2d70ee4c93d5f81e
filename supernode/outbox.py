"""What the tracker wants sent, in order. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.messages import NamesBlob
from supernode import protocol
from supernode.protocol import PeerId

Outgoing = tuple[Sequence[PeerId], protocol.FromSupernode]
_MAX_REASON = 500


class Outbox:
    """Messages to peers; `take` gives them once."""

    def __init__(self) -> None:
        self._messages: list[Outgoing] = []

    def __bool__(self) -> bool:
        return bool(self._messages)

    def send(self, peers: Sequence[PeerId], message: protocol.FromSupernode) -> None:
        """The same message to all of `peers`."""
        if peers:
            self._messages.append((peers, message))

    def refuse(self, peer: PeerId, blob: NamesBlob, error: Exception) -> None:
        """Something is wrong with one blob of a peer's message."""
        self.send([peer], protocol.BlobRefused(blob.digest, blob.size, str(error)[:_MAX_REASON]))

    def take(self) -> list[Outgoing]:
        """What was put in since the last time."""
        messages, self._messages = self._messages, []
        return messages
