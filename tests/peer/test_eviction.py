"""What goes first, and what never goes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from peer.eviction import GRACE_SECONDS, RECENT_SECONDS, Kept, Stock, Victim, victims
from peer.references import Names, References
from shoal.descriptor import BlobKey
from shoal.digest import Digest

D = [Digest.of(bytes([number])) for number in range(12)]
NOW = 10_000.0


def stock(blobs: dict[Digest, float], references: dict[Digest, Names] | None = None, **others: Any) -> Stock:
    """Blobs of 10 bytes each, with the seconds since they were used."""
    empty: dict[str, Any] = {"quarantined": {}, "parked": {}, "pinned": (), "reading": (), "writing": ()}
    kept = {digest: Kept(10, NOW - ago) for digest, ago in blobs.items()}
    return Stock(blobs=kept, references=References(references or {}), **(empty | others))


def gone(found: Iterable[Victim]) -> list[tuple[str, set[Digest]]]:
    return [(victim.reason, {key.digest for key in victim.blobs}) for victim in found]


FIRST, SECOND = {D[0]: Names((D[1], D[2]))}, {D[3]: Names((D[1], D[4]))}
ONE = {D[0]: 900.0, D[1]: 900.0, D[2]: 900.0}
BOTH = {D[0]: 900.0, D[1]: 900.0, D[2]: 900.0, D[3]: 800.0, D[4]: 800.0}


def test_what_is_of_least_use_goes_first() -> None:
    found = victims(
        stock(
            {**BOTH, D[5]: GRACE_SECONDS},
            FIRST | SECOND,
            quarantined={D[6]: Kept(1, 0.0)},
            parked={BlobKey(D[7], 9): Kept(4, NOW)},
        ),
        NOW,
    )
    assert gone(found) == [
        ("quarantined", {D[6]}),
        ("unneeded", {D[5]}),
        ("partial", {D[7]}),
        ("image", {D[0], D[2]}),
        ("image", {D[3], D[4], D[1]}),
    ]


def test_a_blob_that_no_manifest_needs_yet_has_time() -> None:
    assert gone(victims(stock({D[0]: GRACE_SECONDS - 1}), NOW)) == []


def test_a_shared_layer_says_nothing_of_an_image() -> None:
    found = victims(stock({**BOTH, D[1]: 1.0}, FIRST | SECOND), NOW)
    assert gone(found) == [("image", {D[0], D[2]})], "of the second image it would be the last use"


def test_an_image_whose_layer_was_used_a_moment_ago_stays() -> None:
    found = victims(stock({**BOTH, D[2]: RECENT_SECONDS - 1}, FIRST | SECOND), NOW)
    assert gone(found) == [("image", {D[3], D[4]})]


def test_an_image_that_is_read_or_written_stays() -> None:
    assert gone(victims(stock(ONE, FIRST, reading={D[2]}), NOW)) == []
    waiting = {D[0]: Names((D[1], D[2], D[9]))}
    assert gone(victims(stock(ONE, waiting, writing={D[9]}), NOW)) == []


def test_a_pinned_image_stays_as_a_whole() -> None:
    assert gone(victims(stock(BOTH, FIRST | SECOND, pinned={D[0]}), NOW)) == [("image", {D[3], D[4]})]
    index = {D[5]: Names((D[0], D[3]))}
    found = victims(stock({**BOTH, D[5]: 900.0}, FIRST | SECOND | index, pinned={D[0]}), NOW)
    assert gone(found) == [], "an index of which one manifest is pinned"


def test_the_manifests_go_before_their_layers() -> None:
    index = {D[5]: Names((D[0],))}
    (victim,) = victims(stock({**ONE, D[5]: 900.0}, FIRST | index), NOW)
    assert [key.digest for key in victim.blobs][:2] == [D[5], D[0]]


graphs = st.dictionaries(
    st.sampled_from(D),
    st.builds(Names, st.lists(st.sampled_from(D), max_size=4, unique=True).map(tuple), st.none() | st.sampled_from(D)),
    max_size=6,
)
some = st.sets(st.sampled_from(D), max_size=3)
ages = st.dictionaries(st.sampled_from(D), st.sampled_from([0.0, 59.0, 61.0, 599.0, 601.0, 900.0]), max_size=12)


@given(ages, graphs, some, some, some)
def test_nothing_in_use_ever_goes(
    ages: dict[Digest, float],
    graph: dict[Digest, Names],
    pinned: set[Digest],
    reading: set[Digest],
    writing: set[Digest],
) -> None:
    graph = {digest: names for digest, names in graph.items() if digest in ages}
    now = stock(ages, graph, pinned=pinned, reading=reading, writing=writing)
    left = set(ages)
    for victim in victims(now, NOW):
        blobs = {key.digest for key in victim.blobs}
        assert blobs <= left, "nothing goes twice"
        left -= blobs
        assert not blobs & reading
        assert not blobs & now.references.kept_by(pinned)
        assert all(ages[digest] >= RECENT_SECONDS for digest in blobs)
        assert victim.size == 10 * len(blobs)
    kept = References({digest: names for digest, names in graph.items() if digest in left})
    needed = now.references.kept_by(pinned) | kept.needed()
    assert (set(ages) & needed) <= left, "each image that stays is as whole as it was"
