"""Who is served when."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.uploads import QUEUED_REQUESTS, UPLOAD_SLOTS, Upload, UploadSlots
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from supernode.protocol import PeerId

KEY = BlobKey(Digest.of(b"blob"), 10)
PEERS = [PeerId(name) for name in "abcdefgh"]
A, B, C, *_ = PEERS


def test_so_many_uploads_at_a_time_and_busy_beyond_what_may_wait() -> None:
    slots = UploadSlots(random.Random(1))
    answers = [slots.request(Upload(PEERS[piece % 8], KEY, piece)) for piece in range(40)]
    assert answers.count(True) == UPLOAD_SLOTS == slots.serving
    assert answers.count(None) <= QUEUED_REQUESTS
    assert False in answers


def test_a_lone_asker_may_queue() -> None:
    slots = UploadSlots(random.Random(1))
    answers = [slots.request(Upload(A, KEY, piece)) for piece in range(UPLOAD_SLOTS + QUEUED_REQUESTS + 1)]
    assert answers == [True] * UPLOAD_SLOTS + [None] * QUEUED_REQUESTS + [False]
    following, _ = slots.finished(Upload(A, KEY, 0))
    assert following == Upload(A, KEY, UPLOAD_SLOTS)


@pytest.mark.parametrize("seed", range(4))
def test_when_a_slot_frees_one_of_those_turned_away_is_told(seed: int) -> None:
    slots = UploadSlots(random.Random(seed), queued=0)
    for piece in range(UPLOAD_SLOTS):
        slots.request(Upload(A, KEY, piece))
    assert slots.request(Upload(B, KEY, 0)) is False
    assert slots.request(Upload(C, KEY, 0)) is False
    told = [slots.finished(Upload(A, KEY, piece)) for piece in range(3)]
    assert told[2] == (None, None)
    assert set(told[:2]) == {(None, B), (None, C)}


def test_those_turned_away_are_not_told_in_the_order_in_which_they_asked() -> None:
    first = set()
    for seed in range(20):
        slots = UploadSlots(random.Random(seed), queued=0)
        for piece in range(UPLOAD_SLOTS):
            slots.request(Upload(A, KEY, piece))
        for peer in (B, C):
            slots.request(Upload(peer, KEY, 0))
        first.add(slots.finished(Upload(A, KEY, 0))[1])
    assert first == {B, C}


@given(st.lists(st.tuples(st.sampled_from(PEERS), st.integers(0, 9), st.sampled_from("rrrfcd")), max_size=120))
def test_slots_are_never_exceeded_and_never_lost(steps: list[tuple[PeerId, int, str]]) -> None:
    slots, serving = UploadSlots(random.Random(1)), set[Upload]()
    for peer, piece, step in steps:
        upload = Upload(peer, KEY, piece)
        if step == "r" and slots.request(upload):
            serving.add(upload)
        elif step == "f" and upload in serving:
            serving.discard(upload)
            following, _ = slots.finished(upload)
            serving |= {following} if following else set()
        elif step == "c":
            slots.cancel(upload)
        elif step == "d":
            serving = {each for each in serving if each.peer != peer} | set(slots.drop(peer)[0])
        assert slots.serving == len(serving) <= UPLOAD_SLOTS


def test_when_a_peer_leaves_its_places_go_to_those_turned_away() -> None:
    slots = UploadSlots(random.Random(1), queued=0)
    for piece in range(UPLOAD_SLOTS):
        slots.request(Upload(A, KEY, piece))
    for peer in (B, C):
        slots.request(Upload(peer, KEY, 0))
    started, invited = slots.drop(A)
    assert (started, set(invited)) == ([], {B, C})
