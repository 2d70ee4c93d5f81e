"""What manifests keep, whatever names what."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peer.references import Image, Names, References
from shoal.digest import Digest

D = [Digest.of(bytes([number])) for number in range(12)]

names = st.builds(
    Names,
    st.lists(st.sampled_from(D), max_size=4, unique=True).map(tuple),
    st.none() | st.sampled_from(D),
)
graphs = st.dictionaries(st.sampled_from(D), names, max_size=8)


def test_an_index_keeps_its_manifests_and_these_their_layers() -> None:
    index, manifest, config, layer, other = D[:5]
    references = References({index: Names((manifest, other)), manifest: Names((config, layer))})
    (image,) = references.images()
    assert image == Image(index, frozenset({index, manifest}), frozenset({index, manifest, config, layer, other}))


def test_a_layer_belongs_to_each_image_that_names_it() -> None:
    first, second, layer = D[:3]
    references = References({first: Names((layer,)), second: Names((layer,))})
    assert {image.root: image.members for image in references.images()} == {
        first: {first, layer},
        second: {second, layer},
    }


def test_a_signature_stays_with_its_subject() -> None:
    image, layer, signature, payload = D[:4]
    references = References({image: Names((layer,)), signature: Names((payload,), image)})
    assert [each.root for each in references.images()] == [image]
    assert references.kept_by([image]) == {image, layer, signature, payload}
    assert references.kept_by([signature]) == {signature, payload}
    references.forget(image)
    assert references.kept_by([image]) == {image, signature, payload}, "what is not here may be about to come"
    references.forget(signature)
    assert list(references.images()) == []


def test_a_signature_of_what_an_index_names_belongs_to_the_index() -> None:
    index, absent, signature = D[:3]
    references = References({index: Names((absent,)), signature: Names((), absent)})
    (image,) = references.images()
    assert image == Image(index, frozenset({index, signature}), frozenset({index, absent, signature}))


def test_a_copy_stays_as_it_was() -> None:
    references = References({D[0]: Names((D[1],), D[2])})
    copy = references.copy()
    references.forget(D[0])
    references.learn(D[3], Names((D[4],), D[2]))
    assert copy.kept_by([D[2]]) == {D[0], D[1], D[2]}
    assert D[0] in copy
    assert D[3] not in copy


@given(graphs)
def test_each_manifest_is_in_an_image_that_is_whole(graph: dict[Digest, Names]) -> None:
    references = References(graph)
    images = list(references.images())
    assert set(graph) <= {manifest for image in images for manifest in image.manifests}
    for image in images:
        assert image.members == references.kept_by([image.root])
        assert image.manifests == image.members & set(graph)
        for manifest in image.manifests:
            assert set(graph[manifest].named) <= image.members
    assert references.needed() == set().union(*(image.members for image in images))


@given(graphs, st.lists(st.sampled_from(D)))
def test_what_is_forgotten_leaves_no_trace(graph: dict[Digest, Names], gone: list[Digest]) -> None:
    references = References(graph)
    for digest in gone:
        references.forget(digest)
    left = {digest: names for digest, names in graph.items() if digest not in gone}
    assert (references._names, len(references)) == (left, len(left))
    expected = References(left)
    assert {k: set(v) for k, v in references._referrers.items()} == {k: set(v) for k, v in expected._referrers.items()}
