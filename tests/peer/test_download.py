"""One blob's download: concurrent writers of a piece, the hash of the whole blob, and the threads that do the work."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from peer.download import Download
from peer.errors import DigestMismatch
from peer.hashing import BlobHash
from peer.store import Store
from peer.workers import Workers
from shoal.descriptor import Descriptor
from shoal.digest import Digest
from shoal.pieces import MIB, piece_digest
from shoal.reference import Location
from tests.world.images import random_bytes

AT = Location.parse("docker.io", "library/made")
CONTENT = random_bytes(3 * MIB + 17, seed=1)
BLOB = Descriptor(Digest.of(CONTENT), len(CONTENT))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    store.open()
    yield store
    store.close()


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    workers = Workers()
    yield workers
    workers.close()


@pytest.fixture
async def download(store: Store, workers: Workers) -> Download:
    return Download(
        BLOB, AT, store.partial(BLOB.digest, BLOB.size), workers, gained=lambda *_: None, ended=lambda _: None
    )


def content_of(download: Download, index: int) -> bytearray:
    span = download.layout.span(index)
    return bytearray(CONTENT[span.start : span.end])


async def take(download: Download, index: int) -> bytes | None:
    return await download.take(index, content_of(download, index), None)


async def until_over(download: Download) -> None:
    async with asyncio.timeout(10):
        while not (download.error or (download.verified and not download.missing)):  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_pieces_in_any_order_become_the_blob(download: Download) -> None:
    order = list(range(download.layout.count))
    random.Random(3).shuffle(order)
    await asyncio.gather(*(take(download, index) for index in order))
    await until_over(download)
    assert download.error is None
    assert download.partial.read(0, len(CONTENT)) == CONTENT


async def test_of_two_writers_of_a_piece_the_first_counts(download: Download) -> None:
    """Without a table of digests nobody knows who is right: what is hashed must then be what lies in the file."""
    others = [take(download, index) for index in range(1, download.layout.count)]
    right, wrong = content_of(download, 0), bytearray(download.layout.length(0))
    first, second, *_ = await asyncio.gather(download.take(0, right, None), download.take(0, wrong, None), *others)
    assert first == second == piece_digest(right)
    await until_over(download)
    assert download.error is None
    assert download.partial.read(0, len(CONTENT)) == CONTENT


async def test_a_wrong_piece_that_came_first_fails_the_blob(download: Download) -> None:
    others = [take(download, index) for index in range(1, download.layout.count)]
    wrong, right = bytearray(download.layout.length(0)), content_of(download, 0)
    await asyncio.gather(download.take(0, wrong, None), download.take(0, right, None), *others)
    await until_over(download)
    assert isinstance(download.error, DigestMismatch)


async def test_a_restart_hashes_anew(download: Download) -> None:
    wrong = [bytearray(download.layout.length(index)) for index in range(download.layout.count)]
    early = [asyncio.create_task(download.take(index, wrong[index], None)) for index in range(6)]
    await asyncio.sleep(0)
    download.restart()
    await asyncio.gather(*(take(download, index) for index in range(download.layout.count)))
    await asyncio.gather(*early)
    await until_over(download)
    assert download.error is None
    assert download.partial.read(0, len(CONTENT)) == CONTENT


async def test_the_hash_reads_back_only_what_is_not_in_memory(store: Store, workers: Workers) -> None:
    size = 40 * MIB
    content = random_bytes(size, seed=2)
    partial = store.partial(Digest.of(content), size)
    layout, blob_hash = partial.layout, BlobHash(partial, workers)
    read: list[int] = []
    read_into = partial.read_into

    def counted(offset: int, target: memoryview) -> None:
        read.append(offset)
        read_into(offset, target)

    partial.read_into = counted  # type: ignore[method-assign]
    for index in range(layout.count):
        span = layout.span(index)
        piece = bytearray(content[span.start : span.end])
        partial.write(index, piece)
        partial.mark(index, piece_digest(piece))
        blob_hash.keep(index, piece)
    assert blob_hash.lags(partial.have)
    while count := blob_hash.ready(partial.have):
        await blob_hash.advance(count)
    assert blob_hash.matches()
    assert read == list(range(16 * MIB, size, layout.piece_size))


@pytest.mark.parametrize(("mebibytes", "lags"), [(3, False), (5, True), (64, True), (65, False)])
async def test_only_a_short_way_back_to_the_hash_is_waited_for(
    store: Store, workers: Workers, mebibytes: int, lags: bool
) -> None:
    """After a restart gigabytes may be there that are not hashed yet."""
    partial = store.partial(Digest.of(b"never complete"), 200 * MIB)
    pieces = mebibytes * MIB // partial.layout.piece_size
    assert BlobHash(partial, workers).lags((1 << pieces) - 1) is lags


async def test_results_and_errors_of_piece_threads_reach_their_callers(workers: Workers) -> None:
    def work(number: int) -> int:
        if number % 7 == 0:
            raise ValueError(number)
        return threading.get_ident()

    outcomes = await asyncio.gather(*(workers.run(work, number) for number in range(200)), return_exceptions=True)
    assert [isinstance(outcome, ValueError) for outcome in outcomes] == [number % 7 == 0 for number in range(200)]
    assert threading.get_ident() not in outcomes


async def test_closing_waits_for_the_jobs_that_were_given(workers: Workers) -> None:
    done: list[int] = []

    def work(number: int) -> None:
        time.sleep(0.01)
        done.append(number)

    jobs = [asyncio.ensure_future(workers.run(work, number)) for number in range(5)]
    cancelled = asyncio.ensure_future(workers.run(work, 5))
    await asyncio.sleep(0)
    cancelled.cancel()
    workers.close()
    await asyncio.gather(*jobs)
    assert done == [0, 1, 2, 3, 4, 5]
