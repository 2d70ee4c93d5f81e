"""The partial blobs that are open: what is in use is known while others come and go."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from peer.store import Store
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.pieces import piece_digest

KEYS = [BlobKey(Digest.of(b"%d" % number), 5) for number in range(200)]


@pytest.fixture
def threads_that_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("threads_that_take_turns_often")
def test_what_is_in_use_is_known_while_partial_blobs_come_and_go(store: Store) -> None:
    def open_and_leave() -> None:
        for _ in range(3):
            partials = [store.partial(key) for key in KEYS]
            for partial in partials:
                partial.close()
                partial.drain()

    with ThreadPoolExecutor(1) as pool:
        coming_and_going = pool.submit(open_and_leave)
        while not coming_and_going.done():
            assert store._partials.in_use().writing <= {key.digest for key in KEYS}
        coming_and_going.result()
    stock = store.stock()
    assert stock is not None
    assert not stock.writing
    assert not stock.reading
    assert set(stock.parked) == set(KEYS)


def test_a_blob_is_in_use_from_its_first_byte_until_its_last_reader_leaves(store: Store) -> None:
    content = b"five."
    digest = Digest.of(content)
    partial = store.partial(BlobKey(digest, len(content)))

    def in_use() -> tuple[bool, bool, bool]:
        stock = store.stock() or pytest.fail()
        return digest in stock.writing, digest in stock.blobs, digest in stock.reading

    assert in_use() == (True, False, False)
    partial.write(0, content)
    partial.mark(0, None)
    partial.finish()
    assert in_use() == (False, True, True)
    partial.close()
    assert in_use() == (False, True, False)
    with store.open_blob(digest) or pytest.fail():
        assert in_use() == (False, True, True)
    assert in_use() == (False, True, False)


def test_data_of_which_nothing_tells_is_removed_unless_its_blob_is_open(store: Store) -> None:
    left, told_of, still_open = (store.partial(key) for key in KEYS[:3])
    told_of.write(0, b"five.", piece_digest(b"five."))
    for partial in (left, told_of):
        partial.close()
        partial.drain()
    store.hold_limits()
    names = {path.name for path in (store.root / "partial").glob("*.data")}
    assert names == {f"sha256-{key.digest.hex}-5.data" for key in KEYS[1:3]}
    still_open.close()
