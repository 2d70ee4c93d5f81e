"""The hash of a whole blob, and the threads that work on it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from peer.disk import StoreError
from peer.partial import Partial
from peer.store import Store
from peer.verifier import Verifier
from peer.workers import Workers
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.pieces import MIB, piece_digest
from tests.world.images import random_bytes

SIZE = 40 * MIB
CONTENT = random_bytes(SIZE, seed=2)


@pytest.fixture
def partial(store: Store) -> Iterator[Partial]:
    partial = store.partial(BlobKey(Digest.of(CONTENT), SIZE))
    yield partial
    partial.close()


def put(partial: Partial, index: int) -> bytearray:
    """A piece is there."""
    span = partial.layout.span(index)
    piece = bytearray(CONTENT[span.start : span.end])
    partial.write(index, piece)
    partial.mark(index, piece_digest(piece))
    return piece


async def test_the_hash_reads_back_only_what_is_not_in_memory(
    partial: Partial, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier, layout = Verifier(partial, workers), partial.layout
    read: list[int] = []
    read_into = partial.read_into

    def counted(offset: int, target: memoryview) -> None:
        read.append(offset)
        read_into(offset, target)

    monkeypatch.setattr(partial, "read_into", counted)
    for index in range(layout.count):
        verifier.keep(index, put(partial, index))
    assert verifier.lags
    while verifier.ready():
        await verifier.advance()
    assert verifier.is_done
    assert verifier.matches()
    assert read == list(range(16 * MIB, SIZE, layout.piece_size))


@pytest.mark.parametrize(("mebibytes", "lags"), [(3, False), (5, True), (64, True), (65, False)])
async def test_only_a_short_way_back_to_the_hash_is_waited_for(
    store: Store, workers: Workers, mebibytes: int, lags: bool
) -> None:
    """After a restart gigabytes may be there that are not hashed yet."""
    partial = store.partial(BlobKey(Digest.of(b"never complete"), 200 * MIB))
    partial.have = (1 << mebibytes * MIB // partial.layout.piece_size) - 1
    assert Verifier(partial, workers).lags is lags
    partial.close()


async def test_a_thread_is_not_woken_for_little(partial: Partial, workers: Workers) -> None:
    verifier = Verifier(partial, workers)
    put(partial, 0)
    put(partial, 9)
    assert verifier.ready() == 0
    for index in range(1, 9):
        put(partial, index)
    assert verifier.ready() == 10


async def test_the_end_of_a_blob_is_hashed_however_little_it_is(partial: Partial, workers: Workers) -> None:
    verifier, layout = Verifier(partial, workers), partial.layout
    for index in range(layout.last):
        put(partial, index)
    while verifier.ready():
        await verifier.advance()
    put(partial, layout.last)
    assert verifier.ready() == 1
    await verifier.advance()
    assert verifier.matches()


async def test_what_was_hashed_of_void_pieces_does_not_count(partial: Partial, workers: Workers) -> None:
    verifier = Verifier(partial, workers)
    for index in range(partial.layout.count):
        put(partial, index)
    going = asyncio.create_task(verifier.advance())
    await asyncio.sleep(0)
    verifier.begin_again()
    await going
    assert verifier.reached == 0
    while verifier.ready():
        await verifier.advance()
    assert verifier.matches()


async def test_a_file_that_cannot_be_read_lets_go_of_who_waits(
    partial: Partial, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(offset: int, target: memoryview) -> None:
        raise StoreError("the disk fails")

    verifier = Verifier(partial, workers)
    for index in range(partial.layout.count):
        put(partial, index)
    monkeypatch.setattr(partial, "read_into", fail)
    waiting = asyncio.create_task(verifier.moved())
    await asyncio.sleep(0)
    with pytest.raises(StoreError):
        await verifier.advance()
    await waiting
    assert verifier.reached == 0


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
