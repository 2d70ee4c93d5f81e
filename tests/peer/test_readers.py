"""Readers of a blob on its way, while everything that can happen to its pieces happens between any two of their steps.

The store, the partial file, `BlobInProgress` and `Readers` are real. The threads are not: their work is done by the
event loop after a random number of its turns, so that a seed gives the same interleaving each time.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import pytest

from peer.blob import BlobInProgress
from peer.errors import DownloadFailed
from peer.partial import Partial
from peer.readers import GrowingPiece, Readers
from peer.sink import Sink
from peer.store import Store
from peer.workers import Workers
from shoal.descriptor import Descriptor
from shoal.digest import Digest
from shoal.pieces import KIB, PieceLayout, PieceSet, iterate, run_of
from shoal.reference import Location
from tests.world.images import random_bytes

P = ParamSpec("P")
T = TypeVar("T")
AT, ELSEWHERE = Location.parse("docker.io", "library/made"), Location.parse("quay.io", "a/b")
CONTENT = random_bytes(5 * 256 * KIB + 1017, seed="readers")
BLOB = Descriptor(Digest.of(CONTENT), len(CONTENT))
LAYOUT = PieceLayout.of(BLOB.size)
SEEDS = range(50)
_MOST_TURNS = 6
_READERS = 7


class Turns(Workers):
    """Does the work in the event loop, some of its turns later."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await turns(self._rng)
        result = work(*args, **kwargs)
        await turns(self._rng)
        return result

    async def run_long(self, work: Callable[[], T]) -> T:
        return await self.run(work)

    def close(self) -> None: ...


async def turns(rng: random.Random, most: int = _MOST_TURNS) -> None:
    for _ in range(rng.randrange(most)):
        await asyncio.sleep(0)


def right(index: int) -> bytes:
    span = LAYOUT.span(index)
    return CONTENT[span.start : span.end]


def wrong(index: int, rng: random.Random) -> bytes:
    """A piece that is right up to some byte."""
    content = bytearray(right(index))
    first = rng.choice([0, rng.randrange(len(content)), len(content) - 1])
    content[first:] = bytes(255 - byte for byte in content[first:])
    return bytes(content)


@dataclass
class Chances:
    """How often what happens."""

    wrong: float = 0.0
    broken: float = 0.0
    void: float = 0.0
    failure: float = 0.0


class World:
    """One blob whose pieces come from streams and neighbours, with the rules that the machine keeps: no two bring the
    same piece at a time, and what is voided while it is written does not count."""

    def __init__(self, store: Store, seed: int, chances: Chances) -> None:
        self.rng = random.Random(seed)
        self.chances = chances
        self.workers = Turns(self.rng)
        partial = store.partial(BLOB.key)
        self.told: dict[int, tuple[int, float | None]] = {}
        readers = Readers(partial, self._told, self._left, self._unreadable, lambda _: None)
        self.blob = BlobInProgress(BLOB, partial, readers, self.workers)
        self.landed: dict[int, bytes] = {}
        """What each piece was when it landed last."""
        self._taken: PieceSet = 0
        self._doomed: PieceSet = 0
        self._hashing: asyncio.Task[None] | None = None
        self._harm = 25
        """Harmful things that may still happen, so that it comes to an end."""

    def _left(self, number: int) -> None:
        self.told.pop(number, None)

    def _told(self, number: int, piece: int, waits_since: float | None) -> None:
        self.told[number] = piece, waits_since

    def _unreadable(self, error: Exception) -> None:
        raise AssertionError(error)

    def may(self, chance: float) -> bool:
        happens = self._harm > 0 and self.rng.random() < chance
        self._harm -= happens
        return happens

    def variant(self, index: int) -> bytes:
        return wrong(index, self.rng) if self.may(self.chances.wrong) else right(index)

    @property
    def absent(self) -> list[int]:
        return list(iterate(LAYOUT.all & ~self.blob.partial.have & ~self._taken))

    # --- what brings pieces -------------------------------------------------------------------------------------------

    async def stream(self) -> None:
        """Pieces one after the other as they come from an origin, until it breaks off."""
        while not self.blob.over:
            await turns(self.rng)
            if not self.absent:
                continue
            first = self.rng.choice(self.absent)
            for index in range(first, LAYOUT.count):
                if index not in self.absent or self.blob.over:
                    break
                self._taken |= 1 << index
                if not await self._grow(index):
                    break

    async def _grow(self, index: int) -> bool:
        content, growing = self.variant(index), self.blob.grow(index)
        while growing.filled < len(content):
            end = min(len(content), growing.filled + self.rng.choice([1, 1000, 100_000, len(content)]))
            growing.buffer[growing.filled : end] = content[growing.filled : end]
            growing.filled = end
            self.blob.readers.changed()
            await turns(self.rng)
            if self.may(self.chances.broken) or self.blob.over:
                # a stream that is stopped with a whole piece in its hand leaves it behind (`peer.fetcher`)
                if growing.filled < len(content) and self.blob.readers.growing.get(index) is growing:
                    del self.blob.readers.growing[index]
                self._taken &= ~(1 << index)
                return False
        await self._land(index, growing.buffer)
        return True

    async def neighbour(self) -> None:
        """Whole pieces in any order."""
        while not self.blob.over:
            await turns(self.rng, 20)
            if self.absent:
                index = self.rng.choice(self.absent)
                self._taken |= 1 << index
                await self._land(index, bytearray(self.variant(index)))

    async def _land(self, index: int, content: bytearray) -> None:
        digest = await self.blob.write(index, content, None)
        bit = 1 << index
        counts, self._doomed = not self._doomed & bit, self._doomed & ~bit
        self._taken &= ~bit
        if digest is not None and counts and not self.blob.over:
            self.landed[index] = bytes(content)
            self.blob.land(index, content, digest, from_origin=True)
            if self._hashing is None or self._hashing.done():
                self._hashing = asyncio.create_task(self._hash())

    # --- what becomes of them -----------------------------------------------------------------------------------------

    def discard(self, pieces: PieceSet) -> None:
        self._doomed |= pieces & self._taken & ~self._growing
        if pieces & self.blob.partial.have:
            self.blob.discard(pieces & self.blob.partial.have)

    @property
    def _growing(self) -> PieceSet:
        """Pieces that are streaming in: what they will be nobody has judged."""
        growing = self.blob.readers.growing.items()
        return sum(1 << index for index, piece in growing if piece.filled < len(piece.buffer))

    async def _hash(self) -> None:
        if not await self.blob.hash_on():
            return
        if self.blob.verifier.matches():
            await self.blob.finish()
            self.blob.finished.set()
        else:
            self.discard(LAYOUT.all)

    async def chaos(self) -> None:
        """Pieces are voided now and then, and the blob may fail."""
        while not self.blob.over:
            await turns(self.rng, 40)
            if self.blob.over:
                return
            if self.may(self.chances.void):
                self.discard(self.rng.getrandbits(LAYOUT.count))
            if self.may(self.chances.failure):
                self.blob.fail(DownloadFailed("chance"))
                self.blob.finished.set()

    async def run(self) -> list[Outcome]:
        """Until the blob is verified or has failed, and all readers have gone."""
        readers = [asyncio.create_task(self.reader()) for _ in range(_READERS)]
        others = [asyncio.create_task(each()) for each in (self.stream, self.stream, self.neighbour, self.chaos)]
        async with asyncio.timeout(20):
            for reader in self.rng.sample(readers, 1):
                await turns(self.rng, 60)
                reader.cancel()
            outcomes = await asyncio.gather(*readers, return_exceptions=True)
            await asyncio.gather(*others)
            await self.blob.finished.wait()
            if self._hashing is not None:
                await self._hashing
        assert isinstance(self.blob.partial, Partial)
        self.blob.partial.abort()
        self.blob.partial.close()
        assert not [each for each in outcomes if isinstance(each, Exception)], outcomes
        return [each for each in outcomes if isinstance(each, Outcome)]

    # --- who reads ----------------------------------------------------------------------------------------------------

    async def reader(self) -> Outcome:
        rng = random.Random(self.rng.random())
        await turns(rng, 30)
        start = rng.choice([0, rng.randrange(BLOB.size), LAYOUT.span(rng.randrange(LAYOUT.count)).start])
        end = rng.choice([BLOB.size, rng.randrange(start, BLOB.size) + 1, min(start + 1, BLOB.size)])
        reader = self.blob.readers.enter(rng.choice([AT, ELSEWHERE]))
        client = Client(self, rng, start, end)
        try:
            await reader.ready(start)
            await reader.send(client, start, end)
            # what landed last is looked at before anything else can happen
            return Outcome(start, end, bytes(client.content), None, self._expected(start, end))
        except DownloadFailed as error:
            return Outcome(start, end, bytes(client.content), error, b"")
        finally:
            self.blob.readers.leave(reader)

    def _expected(self, start: int, end: int) -> bytes:
        if end == BLOB.size:
            return CONTENT[start:]
        pieces = range(LAYOUT.at(start), LAYOUT.at(end - 1) + 1)
        first = LAYOUT.span(pieces[0]).start
        return b"".join(self.landed.get(index, b"") for index in pieces)[start - first : end - first]


@dataclass
class Outcome:
    start: int
    end: int
    content: bytes
    error: DownloadFailed | None
    expected: bytes


class Client(Sink):
    """Takes bytes slowly and looks whether it may have them."""

    def __init__(self, world: World, rng: random.Random, start: int, end: int) -> None:
        self.content = bytearray()
        self._world, self._rng, self._start, self._end = world, rng, start, end

    async def write(self, content: bytes | memoryview) -> None:
        self._look(len(content))
        before = bytes(content)
        await turns(self._rng)
        assert before == content, "memory that was given has changed"
        self.content += before

    async def send_file(self, file: int, start: int, end: int) -> None:
        assert start == self._start + len(self.content)
        self._look(end - start)
        while start < end:
            await turns(self._rng)
            count = min(end - start, self._rng.choice([1000, 200_000, 1 << 20]))
            self.content += os.pread(file, count, start)
            start += count
        await turns(self._rng)

    def _look(self, count: int) -> None:
        """The last piece needs the digest of the whole; the last byte of a range that all its pieces have landed."""
        blob = self._world.blob
        end = self._start + len(self.content) + count
        assert end <= self._end
        if end > LAYOUT.span(LAYOUT.last).start:
            assert blob.readers.is_verified
        if end == self._end:
            first, last = LAYOUT.at(self._start), LAYOUT.at(self._end - 1)
            assert run_of(first, last - first + 1) & ~blob.partial.have == 0


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.parametrize(
    "chances",
    [
        Chances(),
        Chances(broken=0.1),
        Chances(broken=0.1, wrong=0.2),
        Chances(void=0.5),
        Chances(void=0.5, broken=0.1, wrong=0.3),
        Chances(void=0.3, broken=0.1, wrong=0.2, failure=0.1),
    ],
    ids=str,
)
async def test_a_clean_end_means_the_right_bytes_whatever_happens(store: Store, chances: Chances) -> None:
    clean = 0
    for seed in SEEDS:
        before = descriptors()
        world = World(store, seed, chances)
        outcomes = await world.run()
        for outcome in outcomes:
            if outcome.error is None:
                clean += 1
                assert outcome.content == outcome.expected, f"seed {seed}: {outcome.start} to {outcome.end}"
            elif chances == Chances():
                raise AssertionError(f"seed {seed}: {outcome.error}") from outcome.error
        assert len(world.blob.readers) == 0
        assert not world.blob.readers.are_waiting
        assert not world.told
        assert descriptors() == before
        store.remove(BLOB.digest)
    assert clean > len(SEEDS)


# --- one thing after the other ------------------------------------------------------------------------------------


class Held(Client):
    """Takes bytes and goes on only when it is let, `times` times; the file is read when it is."""

    def __init__(self, times: int = 1) -> None:
        self.content = bytearray()
        self.is_stopped, self.goes_on = asyncio.Event(), asyncio.Event()
        self._times = times

    async def write(self, content: bytes | memoryview) -> None:
        self.content += content
        await self._stop()

    async def send_file(self, file: int, start: int, end: int) -> None:
        await self._stop()
        self.content += os.pread(file, end - start, start)

    async def _stop(self) -> None:
        if self._times:
            self._times -= 1
            self.is_stopped.set()
            await self.goes_on.wait()


@pytest.fixture
def world(store: Store) -> World:
    return World(store, 1, Chances())


async def land(world: World, *indices: int, content: bytes | None = None) -> None:
    for index in indices:
        piece = bytearray(right(index) if content is None else content)
        digest = await world.blob.write(index, piece, None)
        assert digest is not None
        world.blob.land(index, piece, digest, from_origin=True)


def grow(world: World, index: int, content: bytes) -> GrowingPiece:
    growing = world.blob.grow(index)
    growing.buffer[: len(content)] = content
    growing.filled = len(content)
    world.blob.readers.changed()
    return growing


async def sending(world: World, client: Client, start: int, end: int) -> asyncio.Task[None]:
    """A reader that has taken what there is."""
    task = asyncio.create_task(world.blob.readers.enter(AT).send(client, start, end))
    await settled()
    return task


async def settled() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


async def test_the_end_of_a_part_waits_for_a_piece_that_still_streams_in_before_it(world: World) -> None:
    await land(world, 1)
    growing = grow(world, 0, right(0))
    client = Held(0)
    end = LAYOUT.span(1).start + 10
    task = await sending(world, client, 100, end)
    assert not task.done()
    assert len(client.content) < end - 100
    await land(world, 0, content=bytes(growing.buffer))
    await task
    assert client.content == CONTENT[100:end]


async def test_a_part_whose_beginning_lands_otherwise_than_it_was_given_has_no_clean_end(world: World) -> None:
    await land(world, 1)
    grow(world, 0, right(0))
    client = Held(0)
    end = LAYOUT.span(1).start + 10
    task = await sending(world, client, 100, end)
    await land(world, 0, content=wrong(0, world.rng))
    with pytest.raises(DownloadFailed):
        await task
    assert len(client.content) < end - 100


@pytest.mark.parametrize("same", [True, False])
async def test_the_end_of_a_part_waits_for_a_void_piece_before_it(world: World, same: bool) -> None:
    await land(world, 0, 1)
    client = Held(0)
    end = LAYOUT.span(2).start + 10
    task = await sending(world, client, 100, end)
    world.blob.discard(0b1)
    await land(world, 2)
    await settled()
    assert not task.done()
    assert [piece for piece, _ in world.told.values()] == [0], "it is the void piece that it waits for"
    if same:
        await land(world, 0)
        await task
        assert client.content == CONTENT[100:end]
    else:
        await land(world, 0, content=wrong(0, world.rng))
        with pytest.raises(DownloadFailed):
            await task
        assert len(client.content) < end - 100


async def test_a_reader_that_takes_a_piece_from_the_file_while_it_is_void_has_no_clean_end(world: World) -> None:
    """What it was given may be what was written meanwhile and never counted."""
    await land(world, 0, 1)
    client = Held()
    task = await sending(world, client, 0, LAYOUT.span(2).start)
    await client.is_stopped.wait()
    world.blob.discard(0b1)
    await world.blob.write(0, bytearray(wrong(0, world.rng)), None)  # void again before it counts
    client.goes_on.set()
    await settled()
    await land(world, 0)
    with pytest.raises(DownloadFailed):
        await task


async def test_a_reader_that_is_past_a_void_piece_goes_on_when_it_comes_again(world: World) -> None:
    await land(world, 0)
    client = Held(0)
    task = await sending(world, client, 0, LAYOUT.span(1).end)
    world.blob.discard(0b1)
    await land(world, 0, 1)
    await task
    assert client.content == CONTENT[: LAYOUT.span(1).end]


async def test_bytes_that_come_otherwise_the_second_time_end_the_reader(world: World) -> None:
    grow(world, 0, right(0)[:1000])
    task = await sending(world, Held(0), 0, BLOB.size)
    grow(world, 0, bytes(2000))
    with pytest.raises(DownloadFailed):
        await task


async def test_a_second_attempt_with_the_same_bytes_goes_on_where_the_first_broke_off(world: World) -> None:
    grow(world, 0, right(0)[:1000])
    client = Held(0)
    task = await sending(world, client, 10, LAYOUT.span(0).end)
    grow(world, 0, right(0)[:500])
    await settled()
    assert client.content == CONTENT[10:1000]
    grow(world, 0, right(0)[:3000])
    await settled()
    assert client.content == CONTENT[10:3000]
    await land(world, 0)
    await task


async def test_a_piece_that_is_void_once_the_whole_is_right_ends_nobody(world: World) -> None:
    client = Held()
    task = await sending(world, client, 0, BLOB.size)
    await land(world, *range(LAYOUT.count))
    assert await world.blob.hash_on()
    finishing = asyncio.create_task(world.blob.finish())
    await asyncio.sleep(0)
    assert world.blob.readers.is_verified
    world.blob.discard(LAYOUT.all)
    client.goes_on.set()
    await asyncio.gather(task, finishing)
    assert client.content == CONTENT


async def test_a_file_that_somebody_else_changes_as_it_is_put_in_place_is_given_to_nobody(
    world: World, store: Store
) -> None:
    """Who joins then reads the blob from there, and it is right for whoever looks no more."""

    def refused(error: Exception) -> None:
        raise DownloadFailed(str(error))

    world.blob.readers.unreadable = refused
    await land(world, *range(LAYOUT.count))
    assert await world.blob.hash_on()
    await world.blob.finish()
    with store.path(BLOB.digest).open("r+b") as file:
        file.write(b"evil")
    client = Held()
    client.goes_on.set()
    with pytest.raises(DownloadFailed, match="somebody else changed"):
        await world.blob.readers.enter(AT).send(client, 0, BLOB.size)
    assert not client.content


async def test_only_those_fail_who_named_the_place_that_refused(world: World) -> None:
    readers = world.blob.readers
    here, there = readers.enter(AT), readers.enter(ELSEWHERE)
    waiting = [asyncio.create_task(each.ready(0)) for each in (here, there)]
    await settled()
    readers.fail(DownloadFailed("refused"), ELSEWHERE)
    await land(world, 0)
    await waiting[0]
    with pytest.raises(DownloadFailed, match="refused"):
        await waiting[1]


async def test_a_cancelled_reader_waits_no_more(world: World) -> None:
    task = await sending(world, Held(0), 0, 10)
    assert world.blob.readers.are_waiting
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not world.blob.readers.are_waiting


# --- ranges -------------------------------------------------------------------------------------------------------


async def sent(world: World, client: Client, *spans: tuple[int, int]) -> asyncio.Task[None]:
    """A reader of ranges that has taken what there is."""
    reader = world.blob.readers.enter(AT, is_ranged=True)

    async def send() -> None:
        for start, end in spans:
            await reader.send(client, start, end)

    task = asyncio.create_task(send())
    await settled()
    return task


async def test_a_range_at_the_end_does_not_wait_for_what_nobody_may_ever_ask_for(world: World) -> None:
    await land(world, LAYOUT.last)
    client = Held(0)
    await (await sent(world, client, (BLOB.size - 51, BLOB.size)))
    assert client.content == CONTENT[-51:]


async def test_a_range_at_the_end_waits_for_the_digest_where_nothing_else_is_missing(world: World) -> None:
    await land(world, *range(LAYOUT.count))
    client = Held(0)
    task = await sent(world, client, (0, BLOB.size - 1), (BLOB.size - 51, BLOB.size))
    assert not task.done()
    world.blob.readers.verified()
    await task
    assert client.content == CONTENT[:-1] + CONTENT[-51:]


@pytest.mark.parametrize("same", [True, False])
async def test_a_void_piece_of_an_earlier_part_holds_back_the_end_of_the_last_one(world: World, same: bool) -> None:
    await land(world, 0)
    client = Held(0)
    second = LAYOUT.span(1).start
    task = await sent(world, client, (10, 20), (second, second + 10))
    assert client.content == CONTENT[10:20]
    world.blob.discard(0b1)
    await land(world, 1)
    await settled()
    assert not task.done()
    await land(world, 0, content=None if same else wrong(0, world.rng))
    if same:
        await task
        assert client.content == CONTENT[10:20] + CONTENT[second : second + 10]
    else:
        with pytest.raises(DownloadFailed):
            await task


async def test_a_reader_that_is_answered_begins_or_fails(world: World) -> None:
    readers = world.blob.readers
    begins, fails = readers.enter(AT), readers.enter(AT)
    waiting = [asyncio.create_task(each.ready(0)) for each in (begins, fails)]
    await settled()
    readers.answer(begins.number, None)
    readers.answer(fails.number, DownloadFailed("the origin is silent"))
    await waiting[0]
    with pytest.raises(DownloadFailed, match="silent"):
        await waiting[1]
    client = Held(0)
    task = asyncio.create_task(begins.send(client, 0, 10))
    await settled()
    assert not task.done()
    await land(world, 0)
    await task
    assert client.content == CONTENT[:10]
