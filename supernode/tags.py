"""Cluster-wide resolution of tags: one peer asks the origin, all others are told, and a second one confirms it."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field, replace

from shoal.recent import Recent
from supernode.alarms import TAG, Alarm
from supernode.inquiries import MISSING, Answer, Inquiry, answer_of
from supernode.protocol import PROVISIONAL_SECONDS, Confirm, PeerId, Publish, Resolve, Resolved
from supernode.shares import Shares

_MAX_BYTES = 32 << 20
"""Of all that is known of references."""
_ENTRY_BYTES = 900
"""Of one entry besides its strings, in all books."""
_MAX_QUESTIONS, _MAX_QUESTIONS_EACH = 10_000, 256
"""References that peers are asking their origins about, in all and of one peer."""
_MAX_WAITING, _MAX_WAITING_EACH = 10_000, 1024
"""Queries that wait for the answer to one question, and those of one peer that wait for any."""
_ASK_SECONDS = 5.0
"""How long the peer that asks the origin may take before the others ask for themselves."""
_UNSECONDED_SECONDS = 2.0
"""How long others are given one member's word when nobody is being asked for a second one; then the next who asks is to
ask the origin, and is the second."""
_SLOW_SECONDS = 60.0
"""For how long others do not wait again for a peer that has taken longer."""
_UNHEARD_SECONDS = 3600.0
"""How long nothing is believed of a member that two others have contradicted."""
_MAX_INQUIRIES, _MAX_INQUIRIES_EACH = 512, 8
"""Answers that are being confirmed at a time, in all and of one publisher: each costs the origin a request."""
_MAX_TRIES = 4
"""Members that are asked for a second word one after the other, since some cannot ask that origin."""
_MAX_WITHDRAWN = 64
"""Repositories that all are told to ask for anew when a liar is found; who knows of others hears when it asks next."""
_MAX_PEERS = 4096

Key = tuple[str, str, str, str, str]
Reply = tuple[PeerId, Resolved | Confirm]


@dataclass(slots=True)
class _Question:
    """A reference that one peer is asking the origin about, and who waits for the answer."""

    asker: PeerId
    deadline: float
    waiting: list[tuple[PeerId, int]] = field(default_factory=list)


@dataclass(slots=True)
class _Entry:
    answer: Answer
    by: PeerId
    at: float
    is_confirmed: bool = False
    """Whether a second member has said the same."""
    is_spread: bool = False
    """Whether others than its publisher were told."""


class TagTable:
    """What references stand for, each fresh for `freshness` seconds. Time is passed in.

    A digest's size and media type are one peer's word too, so that they are confirmed, and asked for again, as a tag's
    digest is. What `resolve`, `publish` and the others return is to be sent; `withdrawn` and `alarms` are to be taken.
    """

    def __init__(self, freshness: float, rng: random.Random) -> None:
        self.freshness = freshness
        self._rng = rng
        self._entries: Shares[Key, _Entry] = Shares(_MAX_BYTES)
        self._questions: dict[Key, _Question] = {}
        """In the order of their deadlines."""
        self._asking: dict[PeerId, int] = {}
        self._waiting: dict[PeerId, int] = {}
        self._inquiries: dict[Key, Inquiry] = {}
        self._disputed: Recent[Key, float] = Recent(_MAX_PEERS)
        """References of which members say different things, and until when each peer asks for itself."""
        self._slow: Recent[PeerId, float] = Recent(_MAX_PEERS)
        self._unheard: Recent[PeerId, float] = Recent(_MAX_PEERS)
        self._witnesses: dict[PeerId, str] = {}
        """Members that confirm what others say, and their hosts."""
        self.withdrawn: list[tuple[str, str, str]] = []
        """Registries and repositories of which others were told what turned out wrong, or what the origin denies to an
        identity since then, which stands behind them."""
        self.alarms: list[Alarm] = []

    # --- who is there ---------------------------------------------------------------------------------------------

    def join(self, peer: PeerId, host: str) -> None:
        """A member that confirms what others say."""
        self._witnesses[peer] = host

    def leave(self, peer: PeerId, now: float) -> list[Reply]:
        """A peer is gone: the next one that waits is to ask instead of it."""
        self._witnesses.pop(peer, None)
        self._entries.disown(peer)
        replies: list[Reply] = []
        if peer in self._asking or peer in self._waiting:
            for key, question in list(self._questions.items()):
                question.waiting = [entry for entry in question.waiting if entry[0] != peer]
                if question.asker == peer:
                    replies += self._inherit(key, self._close(key), now)
            self._waiting.pop(peer, None)
        for key, inquiry in list(self._inquiries.items()):
            if peer in inquiry.asked:
                replies += self._heard(key, inquiry, peer, None, now)
        return replies

    # --- questions ------------------------------------------------------------------------------------------------

    def resolve(self, peer: PeerId, message: Resolve, now: float) -> list[Reply]:
        """A peer asks; the answer may come later, from `publish`, `leave` or `expire`."""
        key = _key(message)
        if now < self._disputed.get(key, 0.0):
            return [(peer, Resolved(message.query, "failed"))]
        entry = self._entries.get(key)
        if entry is not None and self._may_be_told(key, entry, peer, min(self.freshness, message.max_age), now):
            entry.is_spread = entry.is_spread or entry.by != peer
            asked = [] if entry.is_confirmed or entry.by == peer else self._inquire(key, entry, now)
            return [(peer, _told(message.query, entry, peer)), *asked]
        question = self._questions.get(key)
        if question is not None and question.asker == peer:
            return [(peer, self._without(message.query, "ask", key, peer))]
        if question is None:
            if not self._may_ask(peer, now):
                return [(peer, self._without(message.query, "failed", key, peer))]
            self._open(key, _Question(peer, now + _ASK_SECONDS))
            return [(peer, self._without(message.query, "ask", key, peer))]
        if len(question.waiting) >= _MAX_WAITING or self._waiting.get(peer, 0) >= _MAX_WAITING_EACH:
            return [(peer, self._without(message.query, "failed", key, peer))]
        question.waiting.append((peer, message.query))
        self._waiting[peer] = self._waiting.get(peer, 0) + 1
        return []

    def publish(self, peer: PeerId, message: Publish, now: float) -> list[Reply]:
        """A peer that was told to ask, or to confirm, publishes the origin's answer; what others publish is ignored."""
        key, answer = _key(message), answer_of(message)
        replies: list[Reply] = []
        question, inquiry = self._questions.get(key), self._inquiries.get(key)
        is_heard = (question is not None and question.asker == peer) or (inquiry is not None and peer in inquiry.asked)
        if message.denied and is_heard:
            self._forget(key)
        if inquiry is not None and peer in inquiry.asked:
            replies += self._heard(key, inquiry, peer, answer, now)
        if question is not None and question.asker == peer:
            replies += self._answered(key, self._close(key), answer, now)
        return replies

    def expire(self, now: float) -> list[Reply]:
        """Questions that took too long: everybody asks for themselves. So do those who were to confirm."""
        replies: list[Reply] = []
        while self._questions:
            key, question = next(iter(self._questions.items()))
            if question.deadline > now:
                break
            self._slow.put(question.asker, now + _SLOW_SECONDS)
            replies += self._failed(key, self._close(key))
        for key, inquiry in list(self._inquiries.items()):
            if inquiry.deadline <= now:
                for peer in list(inquiry.asked):
                    replies += self._heard(key, inquiry, peer, None, now)
        return replies

    def refresh(self, registry: str, repository: str) -> None:
        """Nothing that is known of this repository is fresh any more."""
        for key in self._entries:
            if key[:2] == (registry, repository) and (entry := self._entries.get(key)) is not None:
                entry.at = float("-inf")

    def _forget(self, denied: Key) -> None:
        """An identity may not read a repository any more, so that nobody is told, or keeps, what it was told there.

        One member's word is enough: each node asks the origin for itself then, and it is the origin that decides.
        """
        if self._entries.get(denied) is None:
            return
        for key in list(self._entries):
            if (key[:2], key[4]) == (denied[:2], denied[4]):
                self._entries.pop(key)
        if len(self.withdrawn) < _MAX_WITHDRAWN:
            self.withdrawn.append((*denied[:2], denied[4]))

    @property
    def size(self) -> int:
        """Bytes of what is known."""
        return self._entries.size

    def _may_ask(self, peer: PeerId, now: float) -> bool:
        """Whether others may wait for this peer's word."""
        return (
            len(self._questions) < _MAX_QUESTIONS
            and self._asking.get(peer, 0) < _MAX_QUESTIONS_EACH
            and now >= self._slow.get(peer, 0.0)
            and now >= self._unheard.get(peer, 0.0)
        )

    def _open(self, key: Key, question: _Question) -> None:
        self._questions[key] = question
        self._asking[question.asker] = self._asking.get(question.asker, 0) + 1

    def _close(self, key: Key) -> _Question:
        question = self._questions.pop(key)
        _count_down(self._asking, question.asker)
        for peer, _ in question.waiting:
            _count_down(self._waiting, peer)
        return question

    def _answered(self, key: Key, question: _Question, answer: Answer | None, now: float) -> list[Reply]:
        peer = question.asker
        if answer is None or now < self._unheard.get(peer, 0.0):
            return self._failed(key, question)
        before = self._entries.get(key)
        agreed = before is not None and before.by != peer and before.answer == answer and self._is_fresh(before, now)
        entry = self._enter(key, _Entry(answer, peer, now, is_confirmed=agreed))
        others = [waiter for waiter in question.waiting if waiter[0] != peer]
        if answer == MISSING and not agreed and others:  # nobody is denied an image by one member's word
            return self._inherit(key, replace(question, waiting=others), now)
        entry.is_spread = bool(others)
        replies: list[Reply] = [(waiter, _told(query, entry, waiter)) for waiter, query in question.waiting]
        if before is not None and self._contradicts(before, entry, now) and key not in self._inquiries:
            words = {before.by: before.answer, peer: answer}
            replies += self._dispute(key, Inquiry(now + _ASK_SECONDS, words), now)
        elif not agreed and answer != MISSING and (self.freshness or others):
            replies += self._inquire(key, entry, now)
        return replies

    def _contradicts(self, before: _Entry, entry: _Entry, now: float) -> bool:
        """Whether two members name different things, of which the first can be asked again."""
        return (
            before.answer != entry.answer
            and MISSING not in (before.answer, entry.answer)
            and not before.is_confirmed
            and before.by != entry.by
            and before.by in self._witnesses
            and self._is_fresh(before, now)
        )

    def _enter(self, key: Key, entry: _Entry) -> _Entry:
        strings = sum(map(sys.getsizeof, (*key, entry.answer[0], entry.answer[2])))
        self._entries.put(key, entry, entry.by, _ENTRY_BYTES + strings)
        return entry

    def _inherit(self, key: Key, question: _Question, now: float) -> list[Reply]:
        """The first of those who wait whose word counts is to ask; all others wait on."""
        for place, (heir, query) in enumerate(question.waiting):
            if self._may_ask(heir, now):
                rest = question.waiting[:place] + question.waiting[place + 1 :]
                self._open(key, _Question(heir, now + _ASK_SECONDS, rest))
                for waiter, _ in rest:
                    self._waiting[waiter] = self._waiting.get(waiter, 0) + 1
                return [(heir, self._without(query, "ask", key, heir))]
        return self._failed(key, question)

    def _failed(self, key: Key, question: _Question) -> list[Reply]:
        return [(waiter, self._without(query, "failed", key, waiter)) for waiter, query in question.waiting]

    def _is_fresh(self, entry: _Entry, now: float) -> bool:
        return now - entry.at < self.freshness

    def _may_be_told(self, key: Key, entry: _Entry, peer: PeerId, seconds: float, now: float) -> bool:
        age = now - entry.at
        if entry.is_confirmed or entry.by == peer:
            return age < seconds
        most = PROVISIONAL_SECONDS if key in self._inquiries else _UNSECONDED_SECONDS
        return entry.answer != MISSING and age < min(seconds, most)

    def _without(self, query: int, state: str, key: Key, peer: PeerId) -> Resolved:
        """A reply that is no answer, with what was known last, if two members said so or this one did."""
        entry = self._entries.get(key)
        if entry is None or entry.answer == MISSING or not (entry.is_confirmed or entry.by == peer):
            return Resolved(query, state)
        return Resolved(query, state, *entry.answer)

    # --- second words ---------------------------------------------------------------------------------------------

    def _inquire(self, key: Key, entry: _Entry, now: float) -> list[Reply]:
        """Have a second member ask the origin, for nobody's sake that waits."""
        if key in self._inquiries or len(self._inquiries) >= _MAX_INQUIRIES:
            return []
        if sum(inquiry.publisher == entry.by for inquiry in self._inquiries.values()) >= _MAX_INQUIRIES_EACH:
            return []
        inquiry = Inquiry(now + _ASK_SECONDS, {entry.by: entry.answer})
        return self._ask_another(key, inquiry, now)

    def _ask_another(self, key: Key, inquiry: Inquiry, now: float) -> list[Reply]:
        """Ask a member that has said nothing of this yet, from another host where there is one."""
        able = [
            peer
            for peer in self._witnesses
            if peer not in inquiry.words and peer not in inquiry.tried and now >= self._unheard.get(peer, 0.0)
        ]
        hosts = {self._witnesses.get(peer) for peer in inquiry.words}
        able = [peer for peer in able if self._witnesses[peer] not in hosts] or able
        if not able or len(inquiry.tried) >= _MAX_TRIES:
            return []
        self._inquiries[key] = inquiry
        return self._ask(key, inquiry, self._rng.choice(able))

    @staticmethod
    def _ask(key: Key, inquiry: Inquiry, peer: PeerId) -> list[Reply]:
        inquiry.asked.add(peer)
        inquiry.tried.add(peer)
        return [(peer, Confirm(*key))]

    def _heard(self, key: Key, inquiry: Inquiry, peer: PeerId, answer: Answer | None, now: float) -> list[Reply]:
        """A member that was asked has said this, or could say nothing."""
        inquiry.asked.discard(peer)
        was_dispute = inquiry.is_dispute
        if answer is not None:
            inquiry.words[peer] = answer
        replies: list[Reply] = []
        if inquiry.is_dispute and not was_dispute:
            replies += self._dispute(key, inquiry, now)
        elif inquiry.needs_another:
            inquiry.deadline = now + _ASK_SECONDS
            replies += self._ask_another(key, inquiry, now)
        if not inquiry.asked:
            del self._inquiries[key]
            self._settle(key, inquiry, now)
        return replies

    def _dispute(self, key: Key, inquiry: Inquiry, now: float) -> list[Reply]:
        """Two members say different things: a third one is asked, and the first one again, since a tag that was moved
        meanwhile is no lie."""
        self._inquiries[key] = inquiry
        self._disputed.put(key, now + _ASK_SECONDS)
        inquiry.deadline = now + _ASK_SECONDS
        again = self._ask(key, inquiry, inquiry.publisher) if inquiry.publisher in self._witnesses else []
        return again + self._ask_another(key, inquiry, now)

    def _settle(self, key: Key, inquiry: Inquiry, now: float) -> None:
        """All have said what they could."""
        if len(inquiry.words) == 1:
            return
        about = f"{key[0]}/{key[1]}: {key[2]}"
        entry = self._entries.get(key)
        verdict = inquiry.verdict()
        if verdict is None:
            self.alarms.append(Alarm(TAG, about, None))
            self._disputed.put(key, now + max(self.freshness, _ASK_SECONDS))
            self._withdraw(key)
            return
        answer, liars = verdict
        was_disputed = self._disputed.pop(key, None) is not None
        if entry is not None and entry.answer == answer:
            entry.is_confirmed = True
        elif was_disputed:
            self._withdraw(key)
            self._enter(key, _Entry(answer, next(peer for peer in inquiry.words if peer not in liars), now, True))
        for liar in liars:
            self.alarms.append(Alarm(TAG, about, liar))
            self._unheard.put(liar, now + _UNHEARD_SECONDS)
            for other in self._entries.of(liar):
                told = self._entries.get(other)
                if told is not None and not told.is_confirmed:
                    self._withdraw(other)

    def _withdraw(self, key: Key) -> None:
        """What was said of a reference is not to be believed, nor by those who were told."""
        entry = self._entries.pop(key)
        place = key[0], key[1], ""
        is_news = entry is not None and entry.is_spread and place not in self.withdrawn
        if is_news and len(self.withdrawn) < _MAX_WITHDRAWN:
            self.withdrawn.append(place)


def _key(message: Resolve | Publish) -> Key:
    return message.registry, message.repository, message.reference, message.kind, message.identity


def _told(query: int, entry: _Entry, peer: PeerId) -> Resolved:
    if entry.answer == MISSING:
        return Resolved(query, "missing")
    return Resolved(query, "fresh", *entry.answer, provisional=not entry.is_confirmed and entry.by != peer)


def _count_down(counts: dict[PeerId, int], peer: PeerId) -> None:
    if peer in counts:
        counts[peer] -= 1
        if not counts[peer]:
            del counts[peer]
