"""What a supernode raises an alarm about: members that contradict each other."""

from __future__ import annotations

from dataclasses import dataclass

from supernode.protocol import PeerId

TAG, PIECES = "tag", "pieces"


@dataclass(frozen=True, slots=True)
class Alarm:
    """Two members say different things of `about`, which stands for one thing only."""

    kind: str
    """`TAG` or `PIECES`."""
    about: str
    peer: PeerId | None
    """Who is not believed any more, since two others contradict it; None where nobody knows yet who is right."""
