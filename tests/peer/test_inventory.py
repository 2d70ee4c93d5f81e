"""The books of finished blobs: each transition by itself, on files that are there or not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.disk import Stamp
from peer.imagelayout import ImageLayout
from peer.inventory import Inventory, Lost
from shoal.descriptor import BlobKind
from shoal.digest import Digest

LAYER = b"a layer"
MANIFEST = json.dumps({"schemaVersion": 2, "config": {"digest": Digest.of(LAYER), "size": 7}, "layers": []}).encode()
BLOB, ROOT = Digest.of(LAYER), Digest.of(MANIFEST)


class Books:
    """An inventory, its files and what it told."""

    def __init__(self, folder: Path) -> None:
        self.layout = ImageLayout(folder)
        self.layout.open()
        self.inventory = Inventory(self.layout, lambda: 1000.0)
        self.inventory.open()
        self.lost: list[Lost] = []
        self.inventory.tell(self.lost.extend)

    def admit(self, content: bytes) -> None:
        digest = Digest.of(content)
        path = self.layout.path(digest)
        path.write_bytes(content)
        self.inventory.admit(digest, Stamp.of(path.stat()))

    def close(self) -> None:
        self.inventory.close()
        self.layout.close()


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path)
    for content in (LAYER, MANIFEST):
        books.admit(content)
    yield books
    books.close()


def test_what_goes_together_goes_as_a_whole_or_not_at_all(books: Books) -> None:
    known = books.inventory.verified(BLOB) or pytest.fail()
    books.inventory.begin_reading(BLOB, known)
    assert books.inventory.give_up(ROOT, [ROOT, BLOB]) == ()
    assert books.inventory.sizes().keys() == {ROOT, BLOB}
    books.inventory.end_reading(BLOB)
    gone = books.inventory.give_up(ROOT, [ROOT, BLOB])
    assert [(lost.digest, lost.kind, lost.damaged) for lost in gone] == [
        (ROOT, BlobKind.MANIFEST, False),
        (BLOB, BlobKind.BLOB, False),
    ]
    assert (books.lost, books.inventory.sizes(), books.inventory.stored()) == (list(gone), {}, 0)


def test_a_file_that_was_replaced_meanwhile_is_not_lost(books: Books) -> None:
    before = books.inventory.verified(BLOB)
    books.admit(LAYER)
    assert not books.inventory.lose(BLOB, before)
    assert not books.inventory.lose(BLOB, None)
    assert books.inventory.lose(BLOB, books.inventory.verified(BLOB))
    assert books.lost == [Lost(BLOB, len(LAYER), BlobKind.BLOB, damaged=True)]


def test_the_names_of_a_damaged_manifest_count_and_those_of_a_removed_one_do_not(books: Books) -> None:
    assert books.inventory.lose(ROOT, books.inventory.verified(ROOT))
    assert books.inventory.references().needed() == {ROOT, BLOB}
    books.admit(MANIFEST)
    assert books.inventory.remove(ROOT) == len(MANIFEST)
    assert books.inventory.references().needed() == set()
    assert books.inventory.remove(ROOT) == 0


def test_an_unverified_file_counts_as_stored_and_may_be_a_manifest(books: Books, tmp_path: Path) -> None:
    books.layout.path(BLOB).write_bytes(LAYER + b"!")
    books.close()
    books = Books(tmp_path)
    assert books.inventory.unverified() == {BLOB: len(LAYER) + 1}
    assert books.inventory.stored() == len(MANIFEST) + len(LAYER) + 1
    assert books.inventory.snapshot() is None
    assert books.inventory.lose(BLOB, None)
    assert books.lost == [Lost(BLOB, None, BlobKind.BLOB, damaged=True)]
    assert (books.inventory.snapshot() or pytest.fail()).blobs.keys() == {ROOT}
    books.close()
