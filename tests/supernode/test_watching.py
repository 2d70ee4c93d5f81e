"""How often nodes are asked to report."""

from __future__ import annotations

import pytest

from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.messages import BlobRef
from supernode.protocol import PeerId
from supernode.report import MAX_WATCHED, Watch
from supernode.watching import GLANCE, LINGER_SECONDS, Subject, Watching

KEY = BlobKey(Digest.of(b"x"), 1)


def watching(peers: int) -> Watching:
    found = Watching()
    for number in range(peers):
        found.joined(PeerId(f"{number:032x}"))
    return found


def told(found: Watching, now: float) -> Watch | None:
    outgoing = found.decide(now)
    if not outgoing:
        return None
    ((_, message),) = outgoing
    assert isinstance(message, Watch)
    return message


def test_nodes_report_each_second_while_somebody_looks_and_hardly_ever_else() -> None:
    found = watching(3)
    assert told(found, 0.0) is None
    found.look(GLANCE, 1.0)
    looked = told(found, 1.0)
    assert looked is not None
    assert looked.interval == 1.0
    assert told(found, 5.0) is None
    found.look(GLANCE, 6.0)
    assert told(found, 1.0 + LINGER_SECONDS) is None
    unseen = told(found, 6.0 + LINGER_SECONDS)
    assert unseen == Watch(60.0)


@pytest.mark.parametrize(("peers", "looked", "unseen"), [(1, 1.0, 60.0), (1000, 2.0, 60.0), (10_000, 20.0, 200.0)])
def test_many_nodes_report_less_often_each(peers: int, looked: float, unseen: float) -> None:
    found = watching(peers)
    found.look(GLANCE, 0.0)
    found.decide(0.0)
    assert found.interval == looked
    found.decide(LINGER_SECONDS)
    assert found.interval == unseen


def test_who_joins_is_told_what_all_others_were() -> None:
    found = watching(1)
    found.look(Subject((KEY,)), 0.0)
    message = told(found, 0.0)
    assert found.joined(PeerId("f" * 32)) == ([PeerId("f" * 32)], message)


def test_a_blob_is_watched_as_long_as_somebody_looks_at_it() -> None:
    found = watching(1)
    found.look(Subject((KEY,)), 0.0)
    first = told(found, 0.0)
    assert first is not None
    assert first.blobs == [BlobRef(*KEY)]
    found.look(GLANCE, 9.0)
    then = told(found, LINGER_SECONDS)
    assert then is not None
    assert (then.blobs, then.interval) == ([], 1.0)


def test_of_more_than_may_be_watched_the_last_ones_are() -> None:
    found = watching(1)
    keys = [BlobKey(Digest.of(b"%d" % number), 1) for number in range(MAX_WATCHED + 3)]
    for key in keys:
        found.look(Subject((key,)), 0.0)
    message = told(found, 0.0)
    assert message is not None
    assert {blob.digest for blob in message.blobs} == {key.digest for key in keys[3:]}


def test_images_are_told_while_somebody_looks_at_them() -> None:
    found = watching(1)
    found.look(Subject(images=True, manifest="sha256:x"), 0.0)
    message = told(found, 0.0)
    assert message is not None
    assert (message.images, message.manifests) == (True, ["sha256:x"])
