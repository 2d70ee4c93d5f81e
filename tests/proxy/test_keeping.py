"""What an operator decides about a store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.eviction import GRACE_SECONDS
from peer.settings import CacheSettings
from peer.store import Store
from proxy.catalogue import KnownTag
from proxy.keeping import Keeping, last_known_of
from shoal.changes import OrderRefused
from shoal.descriptor import OCI_MANIFEST, BlobKind, Descriptor
from shoal.digest import Digest
from shoal.reference import InvalidReference, Location, parse_tag

LAYER = b"a layer"
ABSENT = Digest.of(b"a configuration that was not pulled")
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "config": {"digest": ABSENT, "size": 3},
        "layers": [{"digest": Digest.of(LAYER), "size": len(LAYER)}],
    }
).encode()
DIGEST = Digest.of(MANIFEST)
AT = Location.parse("quay.io", "a/b")
NAME = "quay.io/a/b:1"
TAG = KnownTag(AT, parse_tag("1"), "", Descriptor(DIGEST, len(MANIFEST), OCI_MANIFEST, BlobKind.MANIFEST))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path, CacheSettings(high="1MiB", low="1MiB", free="0"))
    store.open()
    for content in (LAYER, MANIFEST):
        store.put(Digest.of(content), content)
    yield store
    store.close()


@pytest.fixture
def keeping(store: Store) -> Keeping:
    narrow = TAG._replace(accept="one kind", descriptor=Descriptor(ABSENT, 3))
    return Keeping(store, last_known_of([TAG, narrow]), lambda _: {})


@pytest.mark.parametrize(
    ("image", "name"), [(NAME, NAME), (f"quay.io/a/b@{DIGEST}", f"quay.io/a/b@{DIGEST}"), (DIGEST, DIGEST)]
)
def test_an_image_is_pinned_by_any_name(keeping: Keeping, store: Store, image: str, name: str) -> None:
    answer = keeping.pin(image)
    assert answer == {
        "pinned": name,
        "digest": DIGEST,
        "stored": 2,
        "named": 3,
        "bytes": len(LAYER) + len(MANIFEST),
    }
    assert store.pins() == {DIGEST: (name,)}
    assert keeping.unpin(image) == {"unpinned": name, "digests": [DIGEST]}
    with pytest.raises(OrderRefused, match="is not pinned"):
        keeping.unpin(image)


def test_a_pin_goes_by_another_name_of_the_image_too(keeping: Keeping, store: Store) -> None:
    keeping.pin(NAME)
    assert keeping.unpin(DIGEST) == {"unpinned": DIGEST, "digests": [DIGEST]}
    keeping.pin(DIGEST)
    assert keeping.unpin(NAME)["digests"] == [DIGEST]
    assert store.pins() == {}


@pytest.mark.parametrize("image", ["quay.io/a/b:2", "quay.io/a/c:1", str(ABSENT)])
def test_what_is_not_in_the_store_is_not_pinned(keeping: Keeping, image: str) -> None:
    with pytest.raises(OrderRefused, match="is not in the store: pull it first"):
        keeping.pin(image)


def test_what_is_no_reference_is_said(keeping: Keeping) -> None:
    with pytest.raises(InvalidReference):
        keeping.pin("No Image")


def test_a_sweep_says_what_goes_and_waits_for_manifests_that_are_not_known(store: Store, tmp_path: Path) -> None:
    other = b"nobody's"
    store.put(Digest.of(other), other)
    store.close()
    later = Store(tmp_path, CacheSettings(high="1MiB", low="1MiB", free="0"), lambda: 1e11 + GRACE_SECONDS)
    later.path(DIGEST).touch()
    later.open()
    keeping = Keeping(later, last_known_of([]), lambda _: {})
    with pytest.raises(OrderRefused, match="1 files of the store are not hashed yet"):
        keeping.sweep(dry_run=False)
    assert all(right for _, right in later.recheck())
    removed = [
        {"reason": "unneeded", "digest": Digest.of(other), "blobs": [Digest.of(other)], "bytes": len(other)},
    ]
    expected = {"removed": removed, "bytes": len(other)}
    assert keeping.sweep(dry_run=True) == {"dry_run": True, **expected}
    assert keeping.sweep(dry_run=False) == {"dry_run": False, **expected}
    assert keeping.sweep(dry_run=False) == {"dry_run": False, "removed": [], "bytes": 0}
    later.close()


def test_what_only_a_removed_image_needs_goes(keeping: Keeping, store: Store) -> None:
    extra = b"another layer"
    other = json.dumps(
        {
            "schemaVersion": 2,
            "config": {"digest": ABSENT, "size": 3},
            "layers": [{"digest": Digest.of(each), "size": len(each)} for each in (LAYER, extra)],
        }
    ).encode()
    for content in (extra, other):
        store.put(Digest.of(content), content)
    removed = keeping.remove(str(Digest.of(other)))
    assert set(removed["removed"]) == {Digest.of(other), Digest.of(extra)}
    assert (removed["bytes"], removed["kept_by_images"], removed["kept_by_pins"]) == (
        len(other) + len(extra),
        [Digest.of(LAYER)],
        [],
    )
    assert {digest for digest, _ in store.digests()} == {DIGEST, Digest.of(LAYER)}


def test_what_a_pin_keeps_stays_when_an_image_is_removed(keeping: Keeping, store: Store) -> None:
    with pytest.raises(OrderRefused, match=r"quay\.io/a/b:2 is not in the store"):
        keeping.remove("quay.io/a/b:2")
    store.pin(Digest.of(LAYER), "a layer alone")
    assert keeping.remove(NAME)["kept_by_pins"] == [Digest.of(LAYER)]
    store.put(DIGEST, MANIFEST)
    keeping.pin(NAME)
    with pytest.raises(OrderRefused, match="unpin it first"):
        keeping.remove(NAME)


def test_images_have_all_names_that_are_known(store: Store) -> None:
    keeping = Keeping(store, last_known_of([]), lambda digests: {each: [AT] for each in digests})
    (image,) = keeping.images([(AT, parse_tag("2"), DIGEST), (AT, parse_tag("1"), DIGEST)])["images"]
    assert image["references"] == (NAME, "quay.io/a/b:2")
    (image,) = keeping.images([])["images"]
    assert image["references"] == (f"quay.io/a/b@{DIGEST}",)
