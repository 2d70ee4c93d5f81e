"""What several members say of one reference, each by the origin's answer to itself, and who of them is contradicted."""

from __future__ import annotations

import collections
from dataclasses import dataclass, field

from supernode.protocol import PeerId, Publish

Answer = tuple[str, int, str]
"""Digest, size in bytes and media type of what the origin named; empty where it has nothing."""

MISSING: Answer = "", 0, ""


def answer_of(message: Publish) -> Answer | None:
    """What a message says of its reference; None where its sender could not ask."""
    if message.missing:
        return MISSING
    return (message.digest, message.size, message.media_type) if message.digest else None


@dataclass(slots=True)
class Inquiry:
    """The words of members about one reference. It is a dispute as soon as two of them differ."""

    deadline: float
    """Until when those who were asked may answer, in the tracker's seconds."""
    words: dict[PeerId, Answer]
    """What each said last, the first one first."""
    asked: set[PeerId] = field(default_factory=set)
    """Who has not answered yet."""
    tried: set[PeerId] = field(default_factory=set)
    """Who has been asked for a second word, with those who could give none."""

    @property
    def publisher(self) -> PeerId:
        """Who said it first."""
        return next(iter(self.words))

    @property
    def is_dispute(self) -> bool:
        return len(set(self.words.values())) > 1

    @property
    def needs_another(self) -> bool:
        """Whether nobody is left to answer and no two agree yet."""
        return not self.asked and self.verdict() is None

    def verdict(self) -> tuple[Answer, list[PeerId]] | None:
        """What two members at least say, and who says otherwise; None where no two agree."""
        (answer, count), *_ = collections.Counter(self.words.values()).most_common(1)
        if count < 2:
            return None
        return answer, [peer for peer, word in self.words.items() if word != answer]
