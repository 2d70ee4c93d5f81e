"""The handshake as a table of messages: whoever does not know the secret gets nowhere, whatever it sends."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.handshake import SEAL_SIZE, Initiator, NotAMember, Plane, Responder, SecretKey, Session, key_of

KEY, OTHER_KEY = SecretKey(bytes(32)), SecretKey(bytes(31) + b"\1")
ALICE, BOB, CAROL = 32 * "a", 32 * "b", 32 * "c"


def initiator(key: SecretKey = KEY, plane: Plane = "peer", to: str = BOB, nonce: bytes = bytes(32)) -> Initiator:
    return Initiator(key, plane, ALICE, to, nonce)


def responder(*keys: SecretKey, plane: Plane = "peer", me: str = BOB, nonce: bytes = 32 * b"\2") -> Responder:
    return Responder(keys or (KEY,), plane, me, nonce)


def sessions(one: Initiator, two: Responder) -> tuple[Session, Session]:
    """Both ends of a handshake in which nobody interferes."""
    proof = one.received(two.received(one.opening()))
    assert proof is not None
    assert one.received(two.received(proof)) is None
    assert one.session is not None
    assert two.session is not None
    return one.session, two.session


def test_who_share_a_secret_know_each_other_and_speak_sealed() -> None:
    here, there = sessions(initiator(), responder())
    assert (here.other, there.other) == (BOB, ALICE)
    for text in (b"", b"one", b"two"):
        assert bytes(there.open(memoryview(here.seal(text)))) == text
        assert bytes(here.open(memoryview(there.seal(text)))) == text


def test_a_secret_changes_node_by_node() -> None:
    """Any line of a file is taken, the first one is used."""
    here, there = sessions(initiator(OTHER_KEY), responder(KEY, OTHER_KEY))
    assert bytes(there.open(memoryview(here.seal(b"text")))) == b"text"


def test_one_secret_makes_one_key_and_another_another() -> None:
    assert key_of("correct horse battery") == key_of("correct horse battery") != key_of("correct horse batterz")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (initiator(OTHER_KEY), responder()),
        (initiator(plane="control"), responder()),
        (initiator(to=CAROL), responder()),
    ],
    ids=["another secret", "another plane", "meant for another peer"],
)
def test_a_proof_is_good_for_one_connection_between_these_two(one: Initiator, two: Responder) -> None:
    proof = one.received(two.received(one.opening()))
    assert proof is not None
    with pytest.raises(NotAMember):
        two.received(proof)
    assert two.session is None


def test_the_initiator_believes_nobody_without_a_proof() -> None:
    one = initiator()
    proof = one.received(responder().received(one.opening()))
    assert proof is not None
    with pytest.raises(NotAMember):
        one.received(proof)  # its own one, reflected
    assert one.session is None


def test_a_recorded_handshake_opens_nothing() -> None:
    one, two = initiator(), responder()
    first = one.opening()
    second = one.received(two.received(first))
    assert second is not None
    two.received(second)
    again = responder(nonce=32 * b"\3")
    again.received(first)
    with pytest.raises(NotAMember):
        again.received(second)


@given(st.data())
def test_no_step_takes_what_was_changed_on_the_way(data: st.DataObject) -> None:
    one, two = initiator(), responder()
    at = data.draw(st.integers(0, 3))
    message: bytes | None = one.opening()
    for step, take in enumerate((two.received, one.received, two.received, one.received)):
        assert message is not None
        if step == at:
            message = data.draw(changed(message))
        try:
            message = take(message)
        except NotAMember:
            break
    assert one.session is None or two.session is None


@given(st.lists(st.binary(max_size=80), max_size=4), st.booleans())
def test_nonsense_is_refused_with_the_one_error(messages: list[bytes], is_initiator: bool) -> None:
    side = initiator() if is_initiator else responder()
    for message in messages:
        try:
            side.received(message)
        except NotAMember:
            break
    assert side.session is None


@given(st.data())
def test_a_message_is_opened_in_its_place_as_it_was_sealed_or_not_at_all(data: st.DataObject) -> None:
    here, there = sessions(initiator(), responder())
    texts = data.draw(st.lists(st.binary(max_size=40), min_size=1, max_size=5))
    sealed = [here.seal(text) for text in texts]
    at = data.draw(st.integers(0, len(sealed) - 1))
    for text, frame in zip(texts[:at], sealed[:at], strict=True):
        assert there.open(memoryview(frame)) == text
    others = [frame for place, frame in enumerate(sealed) if place != at]
    wrong = data.draw(st.one_of(changed(sealed[at]), st.binary(max_size=60), *map(st.just, others)))
    with pytest.raises(NotAMember):
        there.open(memoryview(wrong))


def test_a_message_is_not_for_its_sender_and_not_for_another_connection() -> None:
    here, there = sessions(initiator(), responder())
    _, elsewhere = sessions(initiator(nonce=32 * b"\7"), responder())
    sealed = here.seal(b"text")
    for session in (here, elsewhere):
        with pytest.raises(NotAMember):
            session.open(memoryview(sealed))
    assert len(sealed) == len(b"text") + SEAL_SIZE
    assert all(one != two for one, two in pairwise([there.seal(b"same") for _ in range(3)]))


def changed(message: bytes) -> st.SearchStrategy[bytes]:
    """A message with a bit turned, or cut, or with more behind it."""

    def turned(bit: int) -> bytes:
        whole = bytearray(message)
        whole[bit // 8] ^= 1 << bit % 8
        return bytes(whole)

    return st.one_of(
        st.integers(0, 8 * len(message) - 1).map(turned),
        st.integers(0, len(message) - 1).map(lambda end: message[:end]),
        st.binary(min_size=1, max_size=40).map(lambda more: message + more),
    )
