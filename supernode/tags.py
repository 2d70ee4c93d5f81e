"""Cluster-wide resolution of tags: one peer asks the origin, all others are told."""

from __future__ import annotations

from dataclasses import dataclass, field

from shoal.recent import Recent
from supernode.protocol import PeerId, Publish, Resolve, Resolved

_MAX_ENTRIES = 100_000
_MAX_QUESTIONS = 10_000
_MAX_WAITING = 10_000
"""Peers that wait for the answer to one question."""
_ASK_SECONDS = 5.0
"""How long the peer that asks the origin may take before the others ask for themselves."""

Key = tuple[str, str, str, str, str]
Reply = tuple[PeerId, Resolved]


@dataclass(slots=True)
class _Question:
    """A reference that one peer is asking the origin about, and who waits for the answer."""

    asker: PeerId
    deadline: float
    waiting: list[tuple[PeerId, int]] = field(default_factory=list)


class TagTable:
    """What references stand for, each fresh for `freshness` seconds. Time is passed in.

    A digest's size and media type are one peer's word, so that they are asked for again as a tag's digest is.
    """

    def __init__(self, freshness: float) -> None:
        self._freshness = freshness
        self._entries: Recent[Key, tuple[Publish, float]] = Recent(_MAX_ENTRIES)
        """With the time at which each was told."""
        self._questions: dict[Key, _Question] = {}
        """In the order of their deadlines."""

    def resolve(self, peer: PeerId, message: Resolve, now: float) -> list[Reply]:
        """A peer asks; the answer may come later, from `publish`, `leave` or `expire`."""
        key = _key(message)
        entry = self._entries.get(key)
        if entry is not None and now - entry[1] < min(self._freshness, message.max_age):
            return [(peer, _told(message.query, entry[0]))]
        question = self._questions.get(key)
        if question is None:
            if len(self._questions) >= _MAX_QUESTIONS:
                return [(peer, self._without(message.query, "failed", key))]
            self._questions[key] = _Question(peer, now + _ASK_SECONDS)
        elif question.asker != peer:
            if len(question.waiting) >= _MAX_WAITING:
                return [(peer, self._without(message.query, "failed", key))]
            question.waiting.append((peer, message.query))
            return []
        return [(peer, self._without(message.query, "ask", key))]

    def publish(self, peer: PeerId, message: Publish, now: float) -> list[Reply]:
        """The peer that was told to ask publishes the origin's answer; what others publish is ignored."""
        key = _key(message)
        question = self._questions.get(key)
        if question is None or question.asker != peer:
            return []
        del self._questions[key]
        if not message.digest and not message.missing:
            return [(waiter, self._without(query, "failed", key)) for waiter, query in question.waiting]
        self._entries.put(key, (message, now))
        return [(waiter, _told(query, message)) for waiter, query in question.waiting]

    def leave(self, peer: PeerId, now: float) -> list[Reply]:
        """A peer is gone: the next one that waits is to ask instead of it."""
        replies: list[Reply] = []
        for key, question in list(self._questions.items()):
            question.waiting = [entry for entry in question.waiting if entry[0] != peer]
            if question.asker != peer:
                continue
            del self._questions[key]
            if question.waiting:
                (heir, query), *rest = question.waiting
                self._questions[key] = _Question(heir, now + _ASK_SECONDS, rest)
                replies.append((heir, self._without(query, "ask", key)))
        return replies

    def expire(self, now: float) -> list[Reply]:
        """Questions that took too long: everybody asks for themselves."""
        replies: list[Reply] = []
        while self._questions:
            key, question = next(iter(self._questions.items()))
            if question.deadline > now:
                break
            del self._questions[key]
            replies += [(waiter, self._without(query, "failed", key)) for waiter, query in question.waiting]
        return replies

    def refresh(self, registry: str, repository: str) -> None:
        """Nothing that is known of this repository is fresh any more."""
        for key, (told, _) in self._entries.items():
            if key[:2] == (registry, repository):
                self._entries[key] = told, float("-inf")

    def _without(self, query: int, state: str, key: Key) -> Resolved:
        """A reply that is no answer, with what was known last."""
        told, _ = self._entries.get(key, (None, 0.0))
        if told is None or told.missing:
            return Resolved(query, state)
        return Resolved(query, state, told.digest, told.size, told.media_type)


def _key(message: Resolve | Publish) -> Key:
    return message.registry, message.repository, message.reference, message.kind, message.identity


def _told(query: int, found: Publish) -> Resolved:
    if found.missing:
        return Resolved(query, "missing")
    return Resolved(query, "fresh", found.digest, found.size, found.media_type)
