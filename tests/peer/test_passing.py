"""Blobs that the store does not take reach their readers all the same."""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from peer import disk, watched
from peer.asked import Behind
from peer.budget import Budget
from peer.disk import StoreFull
from peer.engine import Engine
from peer.errors import DownloadFailed
from peer.partial import Partial
from peer.passage import Passage
from peer.sink import Unreadable
from shoal.descriptor import BlobKey, Descriptor
from shoal.pieces import KIB, MIB
from supernode.server import SupernodeServer
from tests.world.engines import AT, Collected, MemoryOrigin, Start, read, read_ranges, until
from tests.world.images import random_bytes

CONTENT = random_bytes(12 * MIB + 1017, seed="passing")
SMALL = random_bytes(20 * KIB, seed="small")


@dataclass
class Disk:
    """A disk that takes so many bytes of partial blobs more; then writes fail with `error`."""

    room: int = 1 << 40
    error: int = errno.ENOSPC
    reads: bool = True

    def write(self, fd: int, content: memoryview, offset: int) -> None:
        self.room -= len(content)
        if self.room < 0:
            raise OSError(self.error, os.strerror(self.error))
        disk.write_all(fd, content, offset)

    def read_into(self, fd: int, target: memoryview, offset: int) -> None:
        if not self.reads:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        disk.read_all_into(fd, target, offset)

    def read(self, fd: int, offset: int, length: int) -> bytes:
        content = bytearray(length)
        self.read_into(fd, memoryview(content), offset)
        return bytes(content)


@pytest.fixture
def platter(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """What the disk of partial blobs does. Real full disks are in `tests/real/test_full_disk.py`."""
    platter = Disk()
    monkeypatch.setattr(watched, "write_all", platter.write)
    monkeypatch.setattr(watched, "read_all_into", platter.read_into)
    monkeypatch.setattr(watched, "read_all", platter.read)
    return platter


def partials(engine: Engine) -> list[Path]:
    return list((engine.store.root / "partial").iterdir())


async def is_empty(engine: Engine) -> None:
    """Nothing is left over: neither in memory nor on the disk."""
    await until(lambda: not engine.blobs and not partials(engine))


@pytest.mark.parametrize("room", [0, 1 * MIB, 6 * MIB, len(CONTENT) - 1])
async def test_a_blob_for_which_there_is_no_room(start: Start, origin: MemoryOrigin, platter: Disk, room: int) -> None:
    platter.room = room
    engine, blob = await start("a"), origin.put(CONTENT)
    assert await read(engine, blob) == CONTENT
    assert origin.sent <= 1.5 * len(CONTENT)
    assert engine.supply.stored(blob.digest) is None
    await is_empty(engine)
    assert engine.condition.fault
    small = origin.put(SMALL)
    platter.room = 1 << 40
    assert await read(engine, small) == SMALL
    await until(lambda: engine.supply.stored(small.digest) is not None)
    await until(lambda: not engine.condition.fault)


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.EDQUOT])
async def test_a_disk_that_fails_in_the_middle(start: Start, origin: MemoryOrigin, platter: Disk, code: int) -> None:
    platter.room, platter.error = 5 * MIB, code
    engine, blob = await start("a"), origin.put(CONTENT)
    assert await asyncio.gather(*(read(engine, blob) for _ in range(3))) == [CONTENT] * 3
    await is_empty(engine)


class Slow(Collected):
    """A client that takes what comes at `rate` bytes/s, and until it `may_go_on` nothing after `pause` bytes."""

    def __init__(self, rate: float, pause: int = 1 << 40) -> None:
        super().__init__()
        self.rate, self.pause = rate, pause
        self.may_go_on = asyncio.Event()

    async def write(self, content: bytes | memoryview) -> None:
        await super().write(content)
        await self._rest(len(content))

    async def send_file(self, file: int, start: int, end: int) -> None:
        await super().send_file(file, start, end)
        await self._rest(end - start)

    async def _rest(self, count: int) -> None:
        if len(self.content) >= self.pause:
            await self.may_go_on.wait()
        await asyncio.sleep(count / self.rate)


async def give(engine: Engine, blob: Descriptor, client: Collected) -> bytes:
    async with await engine.supply.open(blob, AT) as opened:
        await opened.ready(0)
        await opened.send(client, 0, blob.size)
        return bytes(client.content)


async def test_readers_of_all_paces_are_given_it_and_little_is_in_memory(
    start: Start, origin: MemoryOrigin, platter: Disk
) -> None:
    platter.room = 0
    engine, blob = await start("a"), origin.put(CONTENT)
    clients = [Slow(rate) for rate in (8 * MIB, 16 * MIB, 1 << 40)]
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            passage = engine.blobs[blob.key].partial if blob.key in engine.blobs else None
            if isinstance(passage, Passage):
                most = max(most, blob_bytes(passage))
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    assert await asyncio.gather(*(give(engine, blob, client) for client in clients)) == [CONTENT] * 3
    watching.cancel()
    await is_empty(engine)
    assert 0 < most <= 3 * 5 * MIB
    assert origin.sent <= 3.5 * len(CONTENT)


def blob_bytes(passage: Passage) -> int:
    return passage.layout.bytes_of(passage.have & ~passage.filed)


async def test_an_origin_that_breaks_off_is_asked_for_the_rest(
    start: Start, origin: MemoryOrigin, platter: Disk
) -> None:
    platter.room = 0
    engine, blob = await start("a"), origin.put(CONTENT)
    client = Slow(1 << 40, pause=3 * MIB)
    reading = asyncio.create_task(give(engine, blob, client))
    await until(lambda: len(client.content) >= client.pause)
    origin.breaks = True
    client.may_go_on.set()
    await asyncio.sleep(0.5)
    origin.breaks = False
    assert await reading == CONTENT
    assert origin.sent <= 1.5 * len(CONTENT)


async def test_a_wrong_blob_is_never_whole(start: Start, origin: MemoryOrigin, platter: Disk) -> None:
    platter.room = 0
    engine, blob = await start("a"), origin.put(CONTENT)
    wrong = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    origin.contents[blob.digest] = wrong
    client = Slow(1 << 40)
    with pytest.raises(DownloadFailed):
        await give(engine, blob, client)
    assert len(client.content) < blob.size
    await is_empty(engine)


async def test_an_origin_that_sends_something_else_the_second_time_is_not_believed(
    start: Start, origin: MemoryOrigin, platter: Disk
) -> None:
    """The slow reader is behind what memory holds: what is fetched again for it has to be the same."""
    platter.room = 0
    engine, blob = await start("a"), origin.put(CONTENT)
    slow = Slow(1 << 40, pause=1 * MIB)
    reading = asyncio.create_task(give(engine, blob, slow))
    await until(lambda: len(slow.content) >= slow.pause)
    assert await read(engine, blob) == CONTENT
    origin.wrong = True
    slow.may_go_on.set()
    with pytest.raises(DownloadFailed):
        await reading
    assert len(slow.content) < blob.size


async def test_ranges_of_it(start: Start, origin: MemoryOrigin, platter: Disk) -> None:
    platter.room = 0
    engine, blob = await start("a"), origin.put(CONTENT)
    ranges = [(11 * MIB, 12 * MIB + 5), (0, 10), (5 * MIB - 3, 6 * MIB)]
    got = await read_ranges(engine, blob, *ranges, behind=Behind.NOTHING)
    assert got == b"".join(CONTENT[start:end] for start, end in ranges)
    await is_empty(engine)
    assert origin.sent < 8 * MIB


async def test_an_origin_without_ranges_gives_it(start: Start, origin: MemoryOrigin, platter: Disk) -> None:
    platter.room, origin.ranges = 2 * MIB, False
    engine, blob = await start("a"), origin.put(CONTENT)
    clients = [Slow(12 * MIB), Slow(1 << 40)]
    assert await asyncio.gather(*(give(engine, blob, client) for client in clients)) == [CONTENT] * 2
    await is_empty(engine)


async def test_what_was_written_cannot_be_read_any_more(start: Start, origin: MemoryOrigin, platter: Disk) -> None:
    """The disk is full, and then fails too: the slow reader's next bytes lie in the file."""
    engine, blob = await start("a"), origin.put(CONTENT)
    slow = Slow(1 << 40, pause=1 * MIB)
    platter.room = 6 * MIB
    reading = asyncio.create_task(give(engine, blob, slow))
    await until(lambda: len(slow.content) >= slow.pause and engine.condition.fault != "")
    platter.reads = False
    slow.may_go_on.set()
    assert await reading == CONTENT
    await is_empty(engine)


async def test_a_partial_that_cannot_be_read_is_fetched_again(
    start: Start, origin: MemoryOrigin, platter: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's own `sendfile` from it fails after some bytes."""

    class Failing(Slow):
        async def send_file(self, file: int, start: int, end: int) -> None:
            if end > 4 * MIB:
                await super().send_file(file, start, start + 7)
                raise Unreadable("injected", 7)
            await super().send_file(file, start, end)

    engine, blob = await start("a"), origin.put(CONTENT)
    assert await give(engine, blob, Failing(1 << 40)) == CONTENT
    await is_empty(engine)


@pytest.mark.parametrize("taken", [0, 7])
async def test_a_stored_blob_that_cannot_be_read(start: Start, origin: MemoryOrigin, taken: int) -> None:
    """It is fetched again; within the same response only where nothing was given of it."""

    class Failing(Slow):
        failed = False

        async def send_file(self, file: int, start: int, end: int) -> None:
            if not self.failed:
                self.failed = True
                await super().send_file(file, start, start + taken)
                raise Unreadable("injected", taken)
            await super().send_file(file, start, end)

    engine, blob = await start("a"), origin.put(CONTENT)
    assert await read(engine, blob) == CONTENT
    await is_empty(engine)
    if taken:
        with pytest.raises(DownloadFailed):
            await give(engine, blob, Failing(1 << 40))
    else:
        assert await give(engine, blob, Failing(1 << 40)) == CONTENT
    assert list((engine.store.root / "quarantine").iterdir())
    assert await read(engine, blob) == CONTENT
    await until(lambda: engine.supply.stored(blob.digest) is not None)
    assert origin.sent == 2 * len(CONTENT)


async def test_no_file_may_be_open_and_the_blob_comes(
    start: Start, origin: MemoryOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.shelf._FILE_SECONDS", 0.2)
    engine, blob = await start("a", budget=Budget(open_blobs=0)), origin.put(CONTENT)
    small = origin.put(SMALL)
    assert await read(engine, small) == SMALL
    await until(lambda: engine.supply.stored(small.digest) is not None)
    assert await read(engine, blob) == CONTENT
    await is_empty(engine)
    await until(lambda: not engine.condition.fault)


async def test_neighbours_give_it_where_the_origin_does_not(
    start: Start, origin: MemoryOrigin, supernode: SupernodeServer, platter: Disk
) -> None:
    seed, blob = await start("seed", supernode), origin.put(CONTENT)
    assert await read(seed, blob) == CONTENT
    await until(lambda: seed.supply.stored(blob.digest) is not None)
    sent, platter.room = origin.sent, 0
    origin.gate.clear()
    engine = await start("full", supernode)
    assert await read(engine, blob) == CONTENT
    assert origin.sent == sent
    await is_empty(engine)


async def test_a_node_with_a_full_disk_costs_the_origin_little_beside_others(
    start: Start, origin: MemoryOrigin, supernode: SupernodeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines, blob = [await start(name, supernode) for name in "abc"], origin.put(CONTENT)

    def full(key: BlobKey) -> Partial:
        raise StoreFull("no space")

    monkeypatch.setattr(engines[0].store, "partial", full)
    origin.rate = 8 * MIB
    assert await asyncio.gather(*(read(engine, blob) for engine in engines)) == [CONTENT] * 3
    assert origin.sent <= 1.5 * len(CONTENT)
    assert engines[0].supply.stored(blob.digest) is None
    await until(lambda: all(engine.supply.stored(blob.digest) is not None for engine in engines[1:]))


async def test_a_daemon_that_stops_cuts_its_readers(start: Start, origin: MemoryOrigin, platter: Disk) -> None:
    platter.room = 0
    engine, blob = await start("a"), origin.put(CONTENT)
    slow = Slow(1 << 40, pause=1 * MIB)
    reading = asyncio.create_task(give(engine, blob, slow))
    await until(lambda: len(slow.content) >= slow.pause)
    async with asyncio.timeout(2):
        await engine.stop(0.1)
    slow.may_go_on.set()
    with pytest.raises(DownloadFailed):
        await reading
