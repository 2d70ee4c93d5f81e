from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.digest import Digest
from supernode import tags
from supernode.protocol import Confirm, PeerId, Publish, Resolve, Resolved
from supernode.tags import Reply, TagTable

A, B, C, D = PeerId("a"), PeerId("b"), PeerId("c"), PeerId("d")
PLACE = ("docker.io", "library/busybox", "latest", "manifest")
DIGEST, FORGED = Digest.of(b"manifest"), Digest.of(b"forged")


def ask(query: int, reference: str = "latest") -> Resolve:
    return Resolve(query, "docker.io", "library/busybox", reference, "manifest")


def say(digest: str = DIGEST, reference: str = "latest", *, missing: bool = False) -> Publish:
    return Publish("docker.io", "library/busybox", reference, "manifest", digest, 10, "x/y", missing=missing)


def told(query: int, *, provisional: bool = False, digest: str = DIGEST) -> Resolved:
    return Resolved(query, "fresh", digest, 10, "x/y", provisional)


def table_of(*witnesses: PeerId, freshness: float = 60.0) -> TagTable:
    """A table of a cluster where these members confirm what others say."""
    table = TagTable(freshness, random.Random(1))
    for witness in witnesses:
        table.join(witness, f"host {witness}")
    return table


def asked(replies: Sequence[Reply]) -> list[PeerId]:
    """Who is asked for a second word."""
    return [peer for peer, message in replies if isinstance(message, Confirm)]


def publish(table: TagTable, peer: PeerId, now: float = 0.0, message: Publish | None = None) -> list[PeerId]:
    """A peer asks, publishes, and these are asked for a second word."""
    message = message or say()
    table.resolve(peer, ask(1, message.reference), now)
    return asked(table.publish(peer, message, now))


def converse(table: TagTable, words: dict[PeerId, Digest], now: float = 0.3) -> None:
    """All who are asked for a word say theirs, until nobody is asked."""
    while asking := [(key, peer) for key, inquiry in table._inquiries.items() for peer in inquiry.asked]:
        for key, peer in asking:
            table.publish(peer, say(words[peer], key[2]), now)


def confirmed(now: float = 0.0) -> TagTable:
    """A table where A has published and B has confirmed it."""
    table = table_of(B)
    assert publish(table, A, now) == [B]
    assert table.publish(B, say(), now) == []
    return table


# --- repositories that are made private ------------------------------------------------------------------------------


def test_what_the_origin_denies_is_told_to_nobody_any_more() -> None:
    table = confirmed()
    assert publish(table, A, message=say(reference="other")) == [B]
    table.publish(B, say(reference="other"), 0.0)
    last = Resolved(2, "ask", DIGEST, 10, "x/y")
    assert table.resolve(A, ask(2), 61.0) == [(A, last)]
    assert table.resolve(C, ask(3), 61.0) == []
    denial = Publish(*PLACE, denied=True)
    assert table.publish(A, denial, 61.1) == [(C, Resolved(3, "failed"))]
    assert table.withdrawn == [("docker.io", "library/busybox", "")]
    for place, reference in enumerate(("latest", "other")):
        assert table.resolve(D, ask(place, reference), 61.2) == [(D, Resolved(place, "ask"))]


def test_a_denial_of_who_was_not_asked_changes_nothing() -> None:
    table = confirmed()
    table.publish(C, Publish(*PLACE, denied=True), 1.0)
    assert table.resolve(D, ask(2), 1.0) == [(D, told(2))]
    assert table.withdrawn == []


def test_a_denial_is_about_one_identity() -> None:
    table = confirmed()
    table.resolve(A, Resolve(1, *PLACE, identity="node:a"), 0.0)
    table.publish(A, Publish(*PLACE, identity="node:a", denied=True), 0.1)
    assert table.resolve(D, ask(2), 1.0) == [(D, told(2))]


# --- one asks for all -------------------------------------------------------------------------------------------------


def test_one_peer_asks_the_origin_and_the_others_wait_for_its_word() -> None:
    table = table_of()
    assert table.resolve(A, ask(1), 0.0) == [(A, Resolved(1, "ask"))]
    assert table.resolve(B, ask(2), 0.1) == []
    assert table.publish(A, say(), 0.2) == [(B, told(2, provisional=True))]


def test_after_the_freshness_the_origin_is_asked_again() -> None:
    table = confirmed()
    assert table.resolve(C, ask(2), 59.0) == [(C, told(2))]
    last = Resolved(2, "ask", DIGEST, 10, "x/y")
    assert table.resolve(B, ask(2), 60.0) == [(B, last)]
    assert table.resolve(C, ask(3), 60.0) == []
    assert table.publish(B, say(""), 60.1) == [(C, Resolved(3, "failed", DIGEST, 10, "x/y"))]


def test_what_one_identity_is_told_is_not_told_to_others() -> None:
    other = Resolve(2, *PLACE, "node:robot")
    assert confirmed().resolve(B, other, 1.0) == [(B, Resolved(2, "ask"))]


def test_who_wants_a_younger_answer_asks_the_origin() -> None:
    table = confirmed()
    assert table.resolve(B, Resolve(2, *PLACE, "", 5.0), 4.9) == [(B, told(2))]
    assert table.resolve(B, Resolve(3, *PLACE, "", 5.0), 5.0) == [(B, Resolved(3, "ask", DIGEST, 10, "x/y"))]


def test_a_refreshed_repository_is_asked_for_again() -> None:
    table = confirmed()
    table.refresh("docker.io", "library/other")
    assert table.resolve(B, ask(2), 1.0) == [(B, told(2))]
    table.refresh(PLACE[0], PLACE[1])
    assert table.resolve(B, ask(3), 1.0) == [(B, Resolved(3, "ask", DIGEST, 10, "x/y"))]


def test_when_the_asker_is_gone_the_next_one_asks() -> None:
    table = table_of()
    for query, peer in enumerate((A, B, C), 1):
        table.resolve(peer, ask(query), 0.0)
    assert table.leave(A, 0.1) == [(B, Resolved(2, "ask"))]
    assert table.publish(B, say(), 0.2) == [(C, told(3, provisional=True))]


def test_who_was_not_told_to_ask_is_not_believed() -> None:
    table = table_of()
    table.resolve(A, ask(1), 0.0)
    assert table.publish(B, say(FORGED), 0.1) == []
    table.publish(A, say(), 0.2)
    assert table.resolve(C, ask(3), 1.0) == [(C, told(3, provisional=True))]


def test_a_failure_is_told_and_not_remembered() -> None:
    table = table_of()
    table.resolve(A, ask(1), 0.0)
    table.resolve(B, ask(2), 0.0)
    assert table.publish(A, say(""), 0.1) == [(B, Resolved(2, "failed"))]
    assert table.resolve(B, ask(3), 0.2) == [(B, Resolved(3, "ask"))]


def test_an_asker_that_asks_again_does_not_make_the_others_wait_longer() -> None:
    table = table_of()
    table.resolve(A, ask(1), 0.0)
    table.resolve(B, ask(2), 0.0)
    assert table.resolve(A, ask(3), 4.0) == [(A, Resolved(3, "ask"))]
    assert table.expire(5.0) == [(B, Resolved(2, "failed"))]


def test_nobody_waits_again_for_a_peer_that_has_taken_too_long() -> None:
    table = table_of()
    table.resolve(A, ask(1), 0.0)
    table.expire(5.0)
    assert table.resolve(A, ask(2, "other"), 5.0) == [(A, Resolved(2, "failed"))]
    assert table.resolve(B, ask(3, "other"), 5.0) == [(B, Resolved(3, "ask"))]
    assert table.resolve(A, ask(4, "third"), 65.0) == [(A, Resolved(4, "ask"))]


def test_the_heir_of_a_question_has_its_own_time() -> None:
    table = table_of()
    for query, peer in enumerate((A, B, C)):
        table.resolve(peer, ask(query), 0.0)
    table.resolve(C, ask(9, "other"), 1.0)
    table.leave(A, 4.0)
    assert table.expire(5.9) == []
    assert table.expire(9.0) == [(C, Resolved(2, "failed"))]


# --- second words -----------------------------------------------------------------------------------------------------


def test_a_second_member_confirms_what_one_says_and_nobody_waits_for_it() -> None:
    table = table_of(A, B)
    assert publish(table, A) == [B]
    assert table.resolve(C, ask(2), 0.1) == [(C, told(2, provisional=True))]
    assert table.publish(B, say(), 0.2) == []
    assert table.resolve(C, ask(3), 59.0) == [(C, told(3))]
    assert table.alarms == []


def test_without_a_second_word_one_members_word_is_given_to_others_for_a_moment() -> None:
    table = table_of(A)
    assert publish(table, A) == []
    assert table.resolve(B, ask(2), 1.9) == [(B, told(2, provisional=True))]
    assert table.resolve(A, ask(3), 59.0) == [(A, told(3))]
    assert table.resolve(B, ask(4), 2.0) == [(B, Resolved(4, "ask"))]
    table.publish(B, say(), 2.1)
    assert table.resolve(C, ask(5), 59.0) == [(C, told(5))]


def test_a_lie_that_was_told_before_anybody_could_confirm_it_is_found_by_the_next_who_asks() -> None:
    table = table_of(D)
    publish(table, D, message=say(FORGED))
    for peer in (A, B):
        table.join(peer, peer)
    assert table.resolve(A, ask(2), 5.0) == [(A, Resolved(2, "ask"))]
    assert set(asked(table.publish(A, say(), 5.1))) == {B, D}
    converse(table, {B: DIGEST, D: FORGED}, 5.2)
    assert [alarm.peer for alarm in table.alarms] == [D]
    assert table.resolve(C, ask(3), 5.3) == [(C, told(3))]


def test_a_member_that_cannot_ask_the_origin_is_followed_by_another() -> None:
    table = table_of(B, C)
    (first,) = publish(table, A)
    (second,) = asked(table.publish(first, say(""), 0.1))
    assert {first, second} == {B, C}
    table.publish(second, say(), 0.2)
    assert table.resolve(D, ask(2), 59.0) == [(D, told(2))]


def test_a_member_that_does_not_answer_is_followed_by_another() -> None:
    table = table_of(B, C)
    (first,) = publish(table, A)
    assert asked(table.expire(5.0)) == [{B: C, C: B}[first]]


def test_who_says_otherwise_than_two_others_loses_its_say_and_what_it_said_is_withdrawn() -> None:
    table = table_of(A, B, C)
    for reference in ("first", "second"):
        publish(table, A, message=say(FORGED, reference))
    assert table.resolve(D, ask(2, "first"), 0.1)[0] == (D, told(2, provisional=True, digest=FORGED))
    converse(table, {A: FORGED, B: DIGEST, C: DIGEST})
    assert table.alarms[0].peer == A
    assert table.withdrawn == [("docker.io", "library/busybox", "")]
    for reference in ("first", "second"):
        assert table.resolve(D, ask(3, reference), 0.5) == [(D, told(3))]
    publish(table, A, 0.6, say(FORGED, "third"))
    assert table.resolve(D, ask(4, "third"), 0.6) == [(D, Resolved(4, "ask"))]
    assert table.resolve(A, ask(5, "other"), 0.6) == [(A, Resolved(5, "failed"))], "nobody is to wait for its word"


def test_a_liar_that_is_asked_for_a_second_word_does_not_end_an_honest_ones_say() -> None:
    table = table_of(A, B, C)
    (witness,) = publish(table, A)
    other = {B: C, C: B}[witness]
    assert set(asked(table.publish(witness, say(FORGED), 0.1))) == {A, other}
    assert table.resolve(D, ask(2), 0.2) == [(D, Resolved(2, "failed"))], "while nobody knows who is right"
    table.publish(A, say(), 0.3)
    table.publish(other, say(), 0.3)
    assert [alarm.peer for alarm in table.alarms] == [witness]
    assert table.resolve(D, ask(3), 0.4) == [(D, told(3))]


def test_a_tag_that_was_moved_between_two_answers_is_no_lie() -> None:
    table, moved = table_of(A, B, C), Digest.of(b"moved")
    (witness,) = publish(table, A)
    for peer in asked(table.publish(witness, say(moved), 0.1)):
        table.publish(peer, say(moved), 0.2)
    assert table.alarms == []
    assert table.resolve(D, ask(2), 0.3) == [(D, told(2, digest=moved))]


def test_where_two_members_contradict_each_other_and_there_is_no_third_each_asks_for_itself() -> None:
    table = table_of(A, B)
    publish(table, A, message=say(FORGED))
    assert asked(table.publish(B, say(), 0.1)) == [A]
    table.publish(A, say(FORGED), 0.2)
    assert [alarm.peer for alarm in table.alarms] == [None]
    for peer in (A, B, D):
        assert table.resolve(peer, ask(2), 50.0) == [(peer, Resolved(2, "failed"))]
    assert table.resolve(D, ask(3), 61.0) == [(D, Resolved(3, "ask"))]


def test_nobody_is_denied_an_image_by_one_members_word() -> None:
    table = table_of(A, B, C)
    for query, peer in enumerate((A, B, C), 1):
        table.resolve(peer, ask(query), 0.0)
    assert table.publish(A, say(missing=True), 0.1) == [(B, Resolved(2, "ask"))]
    assert table.publish(B, say(), 0.2)[0] == (C, told(3, provisional=True))


def test_what_two_members_say_is_missing_is_told_for_as_long_as_what_is_there() -> None:
    table = table_of()
    for query, peer in enumerate((A, B, C), 1):
        table.resolve(peer, ask(query), 0.0)
    table.publish(A, say(missing=True), 0.1)
    assert table.publish(B, say(missing=True), 0.2) == [(C, Resolved(3, "missing"))]
    assert table.resolve(D, ask(4), 59.0) == [(D, Resolved(4, "missing"))]
    assert table.resolve(D, ask(5), 61.0) == [(D, Resolved(5, "ask"))]


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_questions_and_those_who_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "_MAX_QUESTIONS", 1)
    monkeypatch.setattr(tags, "_MAX_WAITING", 1)
    table = table_of()
    table.resolve(A, ask(1), 0.0)
    assert table.resolve(A, ask(2, "other"), 0.0) == [(A, Resolved(2, "failed"))]
    assert table.resolve(B, ask(3), 0.0) == []
    assert table.resolve(C, ask(4), 0.0) == [(C, Resolved(4, "failed"))]
    table.publish(A, say(""), 0.0)
    assert table.resolve(C, ask(5, "other"), 5.0) == [(C, Resolved(5, "ask"))]


def test_one_peers_questions_and_waits_leave_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "_MAX_QUESTIONS_EACH", 2)
    monkeypatch.setattr(tags, "_MAX_WAITING_EACH", 3)
    table = table_of()
    states = [table.resolve(A, ask(query, f"{query}"), 0.0)[0][1].state for query in range(4)]  # type: ignore[union-attr]
    assert states == ["ask", "ask", "failed", "failed"]
    assert table.resolve(B, ask(9, "other"), 0.0) == [(B, Resolved(9, "ask"))]
    assert [bool(table.resolve(A, ask(query, "other"), 0.0)) for query in range(4)] == [False] * 3 + [True]
    assert table.resolve(C, ask(9, "other"), 0.0) == []
    table.publish(B, say("", "other"), 0.0)
    assert table._waiting == {}


def test_made_up_tags_of_one_member_push_out_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "_MAX_BYTES", 100_000)
    table = table_of()
    publish(table, B, message=say(DIGEST, "honest"))
    for number in range(500):
        publish(table, A, message=say(FORGED, f"made-up-{number}" + "x" * 200))
        assert table.size <= 100_000
    table.leave(A, 0.0)
    for number in range(500):
        name = PeerId(f"another name {number % 50}")
        publish(table, name, message=say(FORGED, f"again-{number}" + "x" * 200))
        table.leave(name, 0.0)
    assert table.resolve(C, ask(2, "honest"), 1.0) == [(C, told(2, provisional=True))]


events = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.sampled_from(["resolve", "right", "forged", "missing", "nothing", "leave", "join", "wait"]),
        st.sampled_from(["x", "y"]),
    ),
    max_size=60,
)


@given(events, st.integers(0, 99))
def test_whatever_one_member_says_no_honest_one_loses_its_say_and_nothing_is_left(
    steps: list[tuple[str, str, str]], seed: int
) -> None:
    """Peer `d` says anything, all others what is right or nothing."""
    table, now = TagTable(60.0, random.Random(seed)), 0.0
    for name in "abcd":
        table.join(PeerId(name), name)
    for name, event, reference in steps:
        peer = PeerId(name)
        now += 0.5
        if name != "d" and event in ("forged", "missing"):
            event = "right"
        match event:
            case "resolve":
                replies = table.resolve(peer, ask(1, reference), now)
                for whom, reply in replies:
                    if isinstance(reply, Resolved) and reply.state == "fresh" and not reply.provisional and whom != D:
                        assert reply.digest == DIGEST
                    assert not isinstance(reply, Resolved) or reply.state != "missing" or whom == D
            case "leave":
                table.leave(peer, now)
            case "join":
                table.join(peer, name)
            case "wait":
                now += 5.0
                table.expire(now)
            case _:
                digest = {"right": DIGEST, "forged": FORGED}.get(event, "")
                table.publish(peer, say(digest, reference, missing=event == "missing"), now)
        assert set(table._unheard) <= {D}
    for name in "abcd":
        table.leave(PeerId(name), now)
    table.expire(now + 20.0)
    assert not (table._questions or table._inquiries or table._asking or table._waiting or table._witnesses)
