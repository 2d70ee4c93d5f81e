"""A store within its limits: what it gives up, what it keeps, over restarts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from peer.eviction import GRACE_SECONDS, RECENT_SECONDS, victims
from peer.inventory import Lost
from peer.pins import PINS
from peer.settings import CacheSettings
from peer.store import Store
from shoal.descriptor import OCI_INDEX, OCI_MANIFEST, BlobKey, BlobKind
from shoal.digest import Digest
from shoal.pieces import KIB

HIGH = 100 * KIB


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    store = Store(tmp_path, CacheSettings(high="100KiB", low="95KiB", free="0"), clock)
    store.open()
    yield store
    store.close()


def layer(number: int, size: int = 10 * KIB) -> bytes:
    return bytes([number]) * size


def described(content: bytes) -> dict[str, object]:
    return {"mediaType": OCI_MANIFEST, "digest": Digest.of(content), "size": len(content)}


def manifest_of(*layers: bytes, subject: bytes | None = None) -> bytes:
    config, *rest = (described(each) for each in layers)
    about = {} if subject is None else {"subject": described(subject)}
    return json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": rest, **about}
    ).encode()


def put_image(store: Store, *layers: bytes) -> Digest:
    """The manifest's digest."""
    for each in (*layers, manifest := manifest_of(*layers)):
        store.put(Digest.of(each), each)
    return Digest.of(manifest)


def there(store: Store) -> set[Digest]:
    return {digest for digest, _ in store.digests()}


def digests(*contents: bytes) -> set[Digest]:
    return set(map(Digest.of, contents))


def read(store: Store, digest: Digest) -> None:
    with store.open_blob(digest) or pytest.fail():
        pass


def test_the_least_recently_used_image_goes_as_a_whole(store: Store, clock: Clock) -> None:
    first = put_image(store, layer(0), layer(1), layer(2))
    clock.now += 1000
    second = put_image(store, layer(0), layer(3))
    clock.now += 1000
    read(store, first)
    clock.now += 1000
    third = put_image(store, layer(4, 62 * KIB))
    assert there(store) == {first, third} | digests(layer(0), layer(1), layer(2), layer(4, 62 * KIB))
    assert second not in there(store)


def test_uses_outlive_a_restart(store: Store, clock: Clock) -> None:
    first, second = put_image(store, layer(1)), put_image(store, layer(2))
    clock.now += 1000
    read(store, first)
    store.close()
    clock.now += 1000
    store.open()
    put_image(store, layer(3, 82 * KIB))
    assert {first, second} & there(store) == {first}


def test_a_clock_that_was_ahead_protects_nothing(store: Store, clock: Clock) -> None:
    image = put_image(store, layer(1))
    store.close()
    clock.now -= 1_000_000
    store.open()
    clock.now += RECENT_SECONDS
    assert store.make_room(HIGH)
    assert image not in there(store)


def test_room_is_made_of_what_nobody_uses(store: Store, clock: Clock) -> None:
    image = put_image(store, layer(1), layer(2))
    assert not store.make_room(90 * KIB), "all is recent"
    clock.now += RECENT_SECONDS
    with store.open_blob(Digest.of(layer(2))) or pytest.fail():
        clock.now += RECENT_SECONDS
        assert not store.make_room(90 * KIB), "a layer is read"
    clock.now += RECENT_SECONDS
    partial = store.partial(BlobKey(Digest.of(layer(3)), 10 * KIB))
    assert not store.make_room(91 * KIB), "what is being written counts as written"
    assert image not in there(store)
    assert store.make_room(90 * KIB)
    partial.write(0, layer(3))
    partial.close()
    assert store.make_room(100 * KIB), "a parked one goes"
    assert list((store.root / "partial").iterdir()) == []


def test_what_can_never_be_kept_is_said(store: Store) -> None:
    assert store.fits(HIGH)
    assert not store.fits(HIGH + 1)
    assert not store.make_room(HIGH + 1)


def test_a_disk_that_others_fill_is_given_back(tmp_path: Path, clock: Clock) -> None:
    disk = os.statvfs(tmp_path)
    all_but = disk.f_bavail * disk.f_frsize - (64 << 20)
    store = Store(tmp_path, CacheSettings(free=str(all_but + (128 << 20))), clock)
    store.open()
    image = put_image(store, layer(1))
    clock.now += RECENT_SECONDS
    assert not store.make_room(1)
    assert image not in there(store)
    store.close()


def test_an_image_that_is_being_pulled_stays(store: Store, clock: Clock) -> None:
    coming = layer(9)
    manifest = manifest_of(layer(1), coming)
    for each in (layer(1), manifest):
        store.put(Digest.of(each), each)
    partial = store.partial(BlobKey(Digest.of(coming), len(coming)))
    clock.now += 10_000
    assert not store.make_room(80 * KIB)
    assert there(store) == digests(layer(1), manifest)
    partial.close()


def test_a_blob_that_is_still_read_from_its_download_stays(store: Store, clock: Clock) -> None:
    content = layer(1)
    partial = store.partial(BlobKey(Digest.of(content), len(content)))
    partial.write(0, content)
    partial.mark(0, None)
    partial.finish()
    clock.now += GRACE_SECONDS
    assert not store.make_room(HIGH)
    partial.close()
    assert store.make_room(HIGH)


def test_a_pinned_image_stays_over_restarts_and_damage_to_the_index(store: Store, clock: Clock) -> None:
    pinned, other = put_image(store, layer(1), layer(2)), put_image(store, layer(3))
    store.pin(pinned, "docker.io/library/a:1")
    store.close()
    (store.root / "index.sqlite").write_bytes(b"no database at all" * 500)
    store.open()
    clock.now += 10_000
    assert not store.make_room(79 * KIB), "nothing goes as long as the manifests are not known"
    assert all(right for _, right in store.recheck())
    clock.now += 10_000
    assert store.make_room(79 * KIB)
    assert there(store) == store.needs(pinned)
    assert len(store.needs(pinned)) == 3
    assert other not in there(store)
    assert store.unpin("docker.io/library/a:1") == [pinned]
    assert store.make_room(HIGH)


def test_pins_have_names(store: Store) -> None:
    a, b = Digest.of(b"a"), Digest.of(b"b")
    store.pin(a, "one")
    store.pin(a, "two")
    store.pin(a, "two")
    store.pin(b, "two")
    store.close()
    store.open()
    assert store.pins() == {a: ("one", "two"), b: ("two",)}
    assert store.unpin("two") == [a, b]
    assert store.pins() == {a: ("one",)}
    assert store.unpin(a) == [a]
    assert store.unpin("one") == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"sha256:1": []}', b"[]", b'{"a": 1}'])
def test_damaged_pins_are_put_aside_and_told(store: Store, content: bytes) -> None:
    store.close()
    (store.root / PINS).write_bytes(content)
    with capture_logs() as lines:
        store.open()
    assert "pins.damaged" in [line["event"] for line in lines]
    assert (store.root / "pins.json.damaged").read_bytes() == content
    assert store.pins() == {}
    store.pin(Digest.of(b"a"), "one")


def test_a_sweep_removes_what_no_manifest_needs_and_what_is_above_the_low_watermark(store: Store, clock: Clock) -> None:
    image = put_image(store, layer(1), layer(2))
    clock.now += 1
    later = put_image(store, layer(3, 75 * KIB))
    store.put(Digest.of(layer(4)), layer(4))
    assert store.sweep(dry_run=True) == []
    clock.now += GRACE_SECONDS
    planned = store.sweep(dry_run=True)
    assert [(victim.reason, victim.root) for victim in planned] == [
        ("unneeded", Digest.of(layer(4))),
        ("image", image),
    ]
    assert len(there(store)) == 6, "nothing was removed"
    assert store.sweep(dry_run=False) == planned
    assert there(store) == {later} | digests(layer(3, 75 * KIB))


def test_quarantined_files_go_first(store: Store, clock: Clock) -> None:
    image = put_image(store, layer(1), layer(2, 50 * KIB))
    store.path(Digest.of(layer(2, 50 * KIB))).write_bytes(layer(3, 50 * KIB))
    assert store.open_blob(Digest.of(layer(2, 50 * KIB))) is None
    clock.now += GRACE_SECONDS
    assert store.make_room(40 * KIB)
    assert list((store.root / "quarantine").iterdir()) == []
    assert image in there(store)


def test_signatures_stay_with_their_image(store: Store, clock: Clock) -> None:
    image = put_image(store, layer(1))
    manifest = manifest_of(layer(1))
    signature = manifest_of(layer(2), subject=manifest)
    for each in (layer(2), signature):
        store.put(Digest.of(each), each)
    store.pin(image, "signed")
    clock.now += 10_000
    assert store.sweep(dry_run=True) == []
    assert not store.make_room(HIGH)
    assert Digest.of(signature) in there(store)


def test_an_index_keeps_what_was_pulled_of_it(store: Store, clock: Clock) -> None:
    image = put_image(store, layer(1))
    elsewhere = manifest_of(layer(2))
    entries = [described(manifest_of(layer(1))), described(elsewhere)]
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    store.put(Digest.of(index), index)
    clock.now += 10_000
    assert store.sweep(dry_run=True) == []
    assert store.needs(Digest.of(index)) == {image, Digest.of(layer(1)), Digest.of(elsewhere), Digest.of(index)}
    store.pin(Digest.of(index), "all")
    assert not store.make_room(HIGH)


def test_what_is_lost_is_told(store: Store, clock: Clock) -> None:
    lost: list[Lost] = []
    store.tell(lost.extend)
    image = put_image(store, layer(1))
    manifest = manifest_of(layer(1))
    store.path(image).write_bytes(b"{}")
    assert store.open_blob(image) is None
    clock.now += GRACE_SECONDS
    assert store.make_room(HIGH)
    assert lost == [
        Lost(image, len(manifest), BlobKind.MANIFEST, damaged=True),
        Lost(Digest.of(layer(1)), 10 * KIB, BlobKind.BLOB, damaged=False),
    ]


def test_what_is_read_again_meanwhile_is_not_given_up(store: Store, clock: Clock) -> None:
    put_image(store, layer(1))
    clock.now += RECENT_SECONDS
    (victim,) = victims(store.stock() or pytest.fail(), clock.now)
    with store.open_blob(Digest.of(layer(1))) or pytest.fail():
        assert store._stockroom.give_up(victim) == 0
    assert store._stockroom.give_up(victim) == victim.size
    assert there(store) == set()
