from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.plans import MAX_LOCATIONS, ImagePlans
from shoal.descriptor import BlobKind, Descriptor
from shoal.digest import Digest
from shoal.pieces import MAX_BLOB_SIZE
from shoal.reference import Location

DIGESTS = [Digest.of(bytes([number])) for number in range(8)]
PLACES = [Location.parse("docker.io", f"team/app{number}") for number in range(4)]
A, B = PLACES[:2]


def blobs(*numbers: int, size: int = 5) -> list[Descriptor]:
    return [Descriptor(DIGESTS[number], size) for number in numbers]


@pytest.fixture
def plans() -> ImagePlans:
    return ImagePlans()


def test_what_follows_a_blob_in_its_image(plans: ImagePlans) -> None:
    plans.expect(blobs(0, 1, 2, 1, 3), A)
    assert plans.following(DIGESTS[1], A) == blobs(2, 3)
    assert plans.following(DIGESTS[3], A) == []
    assert plans.following(DIGESTS[1], B) == []
    assert plans.following(DIGESTS[7], A) == []


def test_the_manifests_of_an_index_do_not_follow_each_other(plans: ImagePlans) -> None:
    children = [Descriptor(digest, 5, kind=BlobKind.MANIFEST) for digest in DIGESTS[:2]]
    plans.expect(children, A)
    assert plans.known(DIGESTS[0], A) == children[0]
    assert plans.following(DIGESTS[0], A) == []


def test_each_location_has_its_own_sizes(plans: ImagePlans) -> None:
    plans.expect(blobs(0, 1), A)
    plans.expect(blobs(0, 1, size=9), B)
    assert plans.known(DIGESTS[0], A) == blobs(0)[0]
    assert plans.known(DIGESTS[0], B) == blobs(0, size=9)[0]
    assert plans.known(DIGESTS[0], PLACES[2]) is None
    assert plans.following(DIGESTS[0], A) == blobs(1)


def test_of_two_manifests_at_one_location_the_last_one_counts(plans: ImagePlans) -> None:
    first, second = blobs(0, 1, 2), blobs(1, 3, size=9)
    plans.expect(first, A)
    plans.expect(second, A)
    assert plans.known(DIGESTS[0], A) == first[0]
    assert plans.known(DIGESTS[1], A) == second[0]
    assert plans.following(DIGESTS[1], A) == second[1:]
    plans.expect(first, A)
    assert plans.known(DIGESTS[1], A) == first[1]
    assert plans.following(DIGESTS[0], A) == first[1:]


def test_an_impossible_layer_is_known_and_not_opened_ahead(plans: ImagePlans) -> None:
    huge = Descriptor(DIGESTS[1], MAX_BLOB_SIZE + 1)
    plans.expect([*blobs(0), huge, *blobs(2)], A)
    assert plans.following(DIGESTS[0], A) == blobs(2)
    assert plans.known(DIGESTS[1], A) == huge
    assert plans.following(DIGESTS[1], A) == blobs(2)


def test_a_digest_named_in_very_many_places_is_held_for_the_last_of_them(plans: ImagePlans) -> None:
    places = [Location.parse("docker.io", f"a/b{number}") for number in range(2000)]
    for place in places:
        plans.expect(blobs(0), place)
    assert len(plans) == MAX_LOCATIONS
    assert [place for place in places if plans.known(DIGESTS[0], place)] == places[-MAX_LOCATIONS:]


def test_manifests_that_name_the_same_blobs_are_held_once(plans: ImagePlans) -> None:
    for _ in range(100):
        plans.expect(blobs(0, 1, 2), A)
    assert len(plans) == 3


def test_all_blobs_of_all_manifests_are_bounded(plans: ImagePlans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peer.plans.MAX_BLOBS", 10)
    for number in range(2, 8):  # each holds two digests that the others name as well, and one of its own
        plans.expect(blobs(0, 1, number), A)
        assert len(plans) <= 10
    assert plans.known(DIGESTS[2], A) is None
    assert plans.known(DIGESTS[7], A) == blobs(7)[0]
    plans.expect(blobs(*range(8)), B)
    assert len(plans) == 8


numbers = st.lists(st.tuples(st.integers(0, 7), st.integers(1, 3)), max_size=6)


@given(st.lists(st.tuples(numbers, st.sampled_from(PLACES)), max_size=40))
def test_the_last_word_of_each_location_is_known_within_the_bound(
    manifests: Sequence[tuple[list[tuple[int, int]], Location]],
) -> None:
    plans, said = ImagePlans(), dict[tuple[Digest, Location], Descriptor]()
    for named, location in manifests:
        manifest = [Descriptor(DIGESTS[number], size) for number, size in named]
        plans.expect(manifest, location)
        said.update({(blob.digest, location): blob for blob in reversed(manifest)})
    for (digest, location), blob in said.items():
        assert plans.known(digest, location) == blob
    assert len(plans) <= 6 * len(said)
