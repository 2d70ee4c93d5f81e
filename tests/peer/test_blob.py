"""One blob on its way: pieces in any order, what is void, and how it ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from peer.blob import BlobInProgress
from peer.disk import StoreError
from peer.errors import DownloadFailed
from peer.readers import Readers
from peer.store import Store
from peer.workers import Workers
from shoal.descriptor import Descriptor
from shoal.digest import Digest
from shoal.pieces import MIB, piece_digest
from tests.world.images import random_bytes

CONTENT = random_bytes(3 * MIB + 17, seed=1)
BLOB = Descriptor(Digest.of(CONTENT), len(CONTENT))


@pytest.fixture
async def blob(store: Store, workers: Workers) -> AsyncIterator[BlobInProgress]:
    blob = begun(store, workers, BLOB)
    yield blob
    blob.partial.close()


def begun(store: Store, workers: Workers, blob: Descriptor) -> BlobInProgress:
    partial = store.partial(blob.key)
    readers = Readers(partial, lambda *_: None, lambda _: None, lambda _: None, lambda _: None)
    return BlobInProgress(blob, partial, readers, workers)


def content_of(blob: BlobInProgress, index: int) -> bytearray:
    span = blob.layout.span(index)
    return bytearray(CONTENT[span.start : span.end])


async def take(blob: BlobInProgress, index: int, content: bytearray | None = None) -> None:
    """A piece comes, by default the right one."""
    content = content_of(blob, index) if content is None else content
    digest = await blob.write(index, content, None)
    assert digest == piece_digest(content)
    blob.land(index, content, digest, from_origin=True)


async def is_right(blob: BlobInProgress) -> bool:
    """Hash all of it."""
    assert await blob.hash_on()
    return blob.verifier.matches()


async def test_pieces_in_any_order_become_the_blob(store: Store, blob: BlobInProgress) -> None:
    order = list(range(blob.layout.count))
    random.Random(3).shuffle(order)
    await asyncio.gather(*(take(blob, index) for index in order))
    assert await is_right(blob)
    await blob.finish()
    assert store.path(BLOB.digest).read_bytes() == CONTENT
    assert store.size(BLOB.digest) == BLOB.size


async def test_hashing_goes_on_while_pieces_come(blob: BlobInProgress) -> None:
    for index in range(blob.layout.count):
        await take(blob, index)
        await blob.hash_on()
    assert await is_right(blob)


async def test_a_piece_that_is_there_is_not_written_again(blob: BlobInProgress) -> None:
    """What is hashed must be what lies in the file: of two that bring a piece the first one counts."""
    await take(blob, 0)
    await blob.write(0, bytearray(blob.layout.length(0)), None)
    for index in range(1, blob.layout.count):
        await take(blob, index)
    assert await is_right(blob)
    await blob.finish()
    assert blob.partial.read(0, BLOB.size) == CONTENT


async def test_a_wrong_piece_that_came_first_makes_the_whole_wrong(blob: BlobInProgress) -> None:
    await take(blob, 0, bytearray(blob.layout.length(0)))
    await blob.write(0, content_of(blob, 0), None)
    for index in range(1, blob.layout.count):
        await take(blob, index)
    assert not await is_right(blob)


async def test_a_piece_that_is_not_what_was_expected_is_not_written(blob: BlobInProgress) -> None:
    right, wrong = content_of(blob, 0), bytearray(blob.layout.length(0))
    assert await blob.write(0, wrong, piece_digest(right)) is None
    assert blob.partial.have == 0
    assert blob.partial.read(0, len(wrong)) == wrong  # the hole of a sparse file
    assert await blob.write(0, right, piece_digest(right)) == piece_digest(right)
    assert blob.partial.read(0, len(right)) == right


async def test_a_blob_that_begins_again_is_hashed_anew(blob: BlobInProgress) -> None:
    for index in range(blob.layout.count):
        await take(blob, index, bytearray(blob.layout.length(index)))
    hashing = asyncio.create_task(blob.hash_on())
    await asyncio.sleep(0)
    blob.discard(blob.layout.all)
    await asyncio.gather(*(take(blob, index) for index in range(blob.layout.count)))
    await hashing
    assert await is_right(blob)
    await blob.finish()
    assert blob.partial.read(0, BLOB.size) == CONTENT


@pytest.mark.parametrize("seed", range(5))
async def test_pieces_that_are_void_come_again_at_any_time(blob: BlobInProgress, seed: int) -> None:
    rng = random.Random(seed)
    hashing: list[asyncio.Task[bool]] = []
    for index in range(blob.layout.count):
        await take(blob, index, bytearray(blob.layout.length(index)) if rng.random() < 0.5 else None)
        hashing.append(asyncio.create_task(blob.hash_on()) if not hashing or hashing[-1].done() else hashing[-1])
        if rng.random() < 0.3:
            blob.discard(rng.getrandbits(blob.layout.count) & blob.partial.have)
    await hashing[-1]
    blob.discard(blob.layout.all)
    for index in range(blob.layout.count):
        await take(blob, index)
    assert await is_right(blob)


async def test_the_digest_of_a_failed_blob_is_not_taken(blob: BlobInProgress) -> None:
    for index in range(blob.layout.count):
        await take(blob, index)
    blob.fail(DownloadFailed("over"))
    assert not await blob.hash_on()


async def test_who_waits_for_the_hash_is_let_go_when_the_blob_fails(store: Store, workers: Workers) -> None:
    large = Descriptor(Digest.of(b"never complete"), 32 * MIB)
    blob = begun(store, workers, large)
    for index in range(4 * MIB // blob.layout.piece_size + 1):
        await take(blob, index, bytearray(blob.layout.length(index)))
    assert blob.verifier.lags
    writing = asyncio.create_task(blob.write(31, bytearray(blob.layout.length(31)), None))
    await asyncio.sleep(0)
    assert not writing.done()
    blob.fail(DownloadFailed("over"))
    await writing
    blob.partial.close()


async def test_who_waits_for_the_hash_goes_on_with_it(store: Store, workers: Workers) -> None:
    large = Descriptor(Digest.of(b"never complete"), 32 * MIB)
    blob = begun(store, workers, large)
    for index in range(4 * MIB // blob.layout.piece_size + 1):
        await take(blob, index, bytearray(blob.layout.length(index)))
    writing = asyncio.create_task(blob.write(31, bytearray(blob.layout.length(31)), None))
    await asyncio.gather(writing, blob.hash_on())
    blob.partial.close()


@pytest.mark.parametrize("keep", [True, False])
async def test_what_there_is_of_a_failed_blob_is_kept_unless_it_is_wrong(
    store: Store, blob: BlobInProgress, keep: bool
) -> None:
    await take(blob, 1)
    blob.fail(DownloadFailed("over"))
    await blob.save(keep=keep)
    again = store.partial(BLOB.key)
    assert again.have == (0b10 if keep else 0)
    again.close()


async def test_a_blob_that_cannot_be_saved_lets_its_file_go(
    store: Store, blob: BlobInProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise StoreError("no space")

    await take(blob, 1)
    monkeypatch.setattr(blob.partial, "checkpoint", fail)
    await blob.save(keep=True)
    store.partial(BLOB.key).close()
