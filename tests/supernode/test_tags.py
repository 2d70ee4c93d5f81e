from __future__ import annotations

import pytest

from shoal.digest import Digest
from supernode import tags
from supernode.protocol import PeerId, Publish, Resolve, Resolved
from supernode.tags import TagTable

A, B, C = PeerId("a"), PeerId("b"), PeerId("c")
DIGEST = Digest.of(b"manifest")


def ask(query: int, reference: str = "latest") -> Resolve:
    return Resolve(query, "docker.io", "library/busybox", reference, "manifest")


def test_the_size_of_a_digest_is_asked_for_again_after_the_freshness() -> None:
    table = TagTable(60.0)
    table.resolve(A, ask(1, DIGEST), 0.0)
    table.publish(A, Publish("docker.io", "library/busybox", DIGEST, "manifest", DIGEST, 10, "x/y"), 0.0)
    assert table.resolve(B, ask(2, DIGEST), 59.0) == [(B, Resolved(2, "fresh", DIGEST, 10, "x/y"))]
    assert table.resolve(B, ask(3, DIGEST), 61.0) == [(B, Resolved(3, "ask", DIGEST, 10, "x/y"))]


def test_an_asker_that_asks_again_does_not_make_the_others_wait_longer() -> None:
    table = TagTable(60.0)
    table.resolve(A, ask(1), 0.0)
    table.resolve(B, ask(2), 0.0)
    assert table.resolve(A, ask(3), 4.0) == [(A, Resolved(3, "ask"))]
    assert table.expire(5.0) == [(B, Resolved(2, "failed"))]


def test_questions_and_those_who_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "_MAX_QUESTIONS", 1)
    monkeypatch.setattr(tags, "_MAX_WAITING", 1)
    table = TagTable(60.0)
    table.resolve(A, ask(1), 0.0)
    assert table.resolve(A, ask(2, "other"), 0.0) == [(A, Resolved(2, "failed"))]
    assert table.resolve(B, ask(3), 0.0) == []
    assert table.resolve(C, ask(4), 0.0) == [(C, Resolved(4, "failed"))]
    table.expire(5.0)
    assert table.resolve(C, ask(5, "other"), 5.0) == [(C, Resolved(5, "ask"))]


def test_the_heir_of_a_question_has_its_own_time() -> None:
    table = TagTable(60.0)
    for query, peer in enumerate((A, B, C)):
        table.resolve(peer, ask(query), 0.0)
    table.resolve(C, ask(9, "other"), 1.0)
    table.leave(A, 4.0)
    assert table.expire(6.0) == []
    assert table.expire(9.0) == [(C, Resolved(2, "failed"))]
