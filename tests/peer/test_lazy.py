"""Readers of ranges, with whole engines: what they wait for, what leaves the origin for them, and what is kept."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import time
from collections.abc import Iterable

import pytest

from peer.asked import Asked, Behind
from peer.budget import Budget
from peer.errors import DownloadFailed
from shoal.descriptor import Descriptor
from shoal.digest import Digest
from shoal.pieces import MIB, PieceLayout
from shoal.ranges import ByteRange
from supernode.server import SupernodeServer
from tests.world.engines import AT, Collected, MemoryOrigin, Start, read, read_ranges, until
from tests.world.images import random_bytes

CONTENT = random_bytes(24 * MIB, "lazy")
LAYOUT = PieceLayout.of(len(CONTENT))
SLACK = 2 * MIB
"""Bytes that were on their way when a stream was cut."""


def pieces_of(ranges: Iterable[tuple[int, int]]) -> int:
    pieces = 0
    for each in ranges:
        pieces |= Asked((ByteRange(*each),), Behind.REST).pieces(LAYOUT)
    return pieces


@pytest.mark.parametrize("behind", list(Behind))
@pytest.mark.parametrize("with_supernode", [False, True])
async def test_a_cold_range_comes_before_all_that_stands_before_it(
    start: Start, origin: MemoryOrigin, supernode: SupernodeServer, behind: Behind, with_supernode: bool
) -> None:
    engine = await start("a", supernode if with_supernode else None)
    origin.rate = 12.0 * MIB
    blob = origin.put(CONTENT)
    for first in (blob.size - 51, 16 * MIB + 5, 8 * MIB):
        began = time.monotonic()
        assert await read_ranges(engine, blob, (first, first + 51), behind=behind) == CONTENT[first : first + 51]
        assert time.monotonic() - began < 0.5
    origin.rate = 0.0
    if behind is not Behind.NOTHING:
        await until(lambda: engine.store.size(blob.digest) == blob.size)
        assert origin.sent <= blob.size + SLACK
    else:
        assert origin.sent == 3 * LAYOUT.piece_size
    assert await read(engine, blob) == CONTENT
    assert origin.sent <= blob.size + SLACK


@pytest.mark.parametrize("with_supernode", [False, True])
async def test_a_far_range_does_not_wait_for_the_pull_of_the_whole(
    start: Start, origin: MemoryOrigin, supernode: SupernodeServer, with_supernode: bool
) -> None:
    engine = await start("a", supernode if with_supernode else None)
    origin.rate = 6.0 * MIB
    blob = origin.put(CONTENT)
    pull = asyncio.create_task(read(engine, blob))
    await until(lambda: origin.sent > MIB)
    began = time.monotonic()
    assert await read_ranges(engine, blob, (20 * MIB, 20 * MIB + 10), behind=Behind.REST)
    assert time.monotonic() - began < 0.8
    origin.rate = 0.0
    assert await pull == CONTENT
    assert origin.sent <= blob.size + SLACK


async def test_many_small_ranges_cost_the_origin_their_pieces_once(
    start: Start, origin: MemoryOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.machine._PARK_SECONDS", 0.5)
    rng = random.Random(7)
    ranges = [(first, first + rng.randrange(1, 9000)) for first in rng.sample(range(12 * MIB), 40)]
    ranges += [(first + 12 * MIB, end + 12 * MIB) for first, end in ranges[:20]]
    asked = LAYOUT.bytes_of(pieces_of(ranges))
    engine = await start("a")
    blob = origin.put(CONTENT)
    for place, each in enumerate(ranges):
        assert await read_ranges(engine, blob, each, behind=Behind.NOTHING) == CONTENT[slice(*each)]
        if place == 30:  # nobody reads it for a while
            await until(lambda: not engine.blobs)
    assert origin.sent == asked
    mixed = [*ranges[30:], (0, 1), (22 * MIB, 22 * MIB + 1)]
    got = await read_ranges(engine, blob, *mixed, behind=Behind.NOTHING)
    assert got == b"".join(CONTENT[slice(*each)] for each in mixed)
    assert origin.sent == LAYOUT.bytes_of(pieces_of(ranges + mixed))
    await until(lambda: not engine.blobs)
    assert await read(engine, blob) == CONTENT
    assert origin.sent == blob.size


async def test_steps_of_open_ended_ranges_that_are_closed_early_complete_the_blob(
    start: Start, origin: MemoryOrigin
) -> None:
    """As containerd 2 reads one blob with several connections."""
    step = 8 * MIB
    engine = await start("a")
    origin.rate = 40.0 * MIB
    blob = origin.put(CONTENT)

    async def share(first: int) -> bytes:
        asked = Asked((ByteRange(first, blob.size),), Behind.REST) if first else None
        async with await engine.supply.open(blob, AT, asked) as opened:
            await opened.ready(first)
            client = Quota(min(step, blob.size - first))
            with pytest.raises(Quota.Full):
                await opened.send(client, first, blob.size)
            return bytes(client.content)

    shares = await asyncio.gather(*(share(first) for first in range(0, blob.size, step)))
    assert b"".join(each[:step] for each in shares) == CONTENT
    await until(lambda: engine.store.size(blob.digest) == blob.size)
    assert origin.sent <= blob.size + SLACK


class Quota(Collected):
    """A client that closes its connection when it has as many bytes as it wants."""

    class Full(Exception):
        pass

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    async def write(self, content: bytes | memoryview) -> None:
        await super().write(content)
        self._look()

    async def send_file(self, file: int, start: int, end: int) -> None:
        await super().send_file(file, start, end)
        self._look()

    def _look(self) -> None:
        if len(self.content) >= self._most:
            raise Quota.Full


async def test_several_peers_that_read_the_same_ranges_fetch_them_about_once(
    start: Start, origin: MemoryOrigin, supernode: SupernodeServer
) -> None:
    rng = random.Random(3)
    ranges = [(first, first + 4000) for first in rng.sample(range(23 * MIB), 25)]
    engines = [await start(name, supernode) for name in "abc"]
    blob = origin.put(CONTENT)

    async def go(place: int) -> float:
        longest = 0.0
        for each in ranges:
            began = time.monotonic()
            got = await read_ranges(engines[place], blob, each, behind=Behind.NOTHING)
            assert got == CONTENT[slice(*each)]
            longest = max(longest, time.monotonic() - began)
        return longest

    longest = await asyncio.gather(*(go(place) for place in range(3)))
    asked = LAYOUT.bytes_of(pieces_of(ranges))
    print(f"longest {[round(each, 2) for each in longest]} s, egress {origin.sent / asked:.2f}")
    assert max(longest) < 2.0
    assert origin.sent <= 1.3 * asked


async def test_an_origin_without_ranges_gives_the_whole_for_one(start: Start, origin: MemoryOrigin) -> None:
    origin.ranges = False
    engine = await start("a")
    blob = origin.put(CONTENT)
    for first in (20 * MIB, 0):
        assert await read_ranges(engine, blob, (first, first + 9), behind=Behind.NOTHING) == CONTENT[first : first + 9]
    await until(lambda: engine.store.size(blob.digest) == blob.size)
    assert origin.sent <= blob.size + SLACK


@pytest.mark.parametrize("content", [b"", b"x", CONTENT[: 3 * MIB + 17]])
@pytest.mark.parametrize("with_supernode", [False, True])
async def test_digests_of_sha512_and_blobs_of_hardly_any_byte(
    start: Start, origin: MemoryOrigin, supernode: SupernodeServer, content: bytes, with_supernode: bool
) -> None:
    digest = Digest(f"sha512:{hashlib.sha512(content).hexdigest()}")
    blob = origin.put_as(digest, content)
    engines = [await start(name, supernode if with_supernode else None) for name in "ab"]
    if content:
        span = (len(content) - 1, len(content))
        assert await read_ranges(engines[0], blob, span, behind=Behind.REST) == content[-1:]
    for engine in engines:
        assert await read(engine, blob) == content
        await until(lambda engine=engine: engine.store.size(digest) == len(content))  # type: ignore[misc]


async def test_a_client_waits_for_its_first_byte_for_a_bounded_time(
    start: Start, origin: MemoryOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.waiting._ANSWER_SECONDS", 0.3)
    engine = await start("a")
    blob = origin.put(CONTENT)
    origin.gate.clear()
    with pytest.raises(DownloadFailed, match="nor a peer gave a byte"):
        await read(engine, blob)
    origin.gate.set()
    assert await read(engine, blob) == CONTENT


async def test_a_wrong_blob_is_found_though_ranges_of_it_were_given(start: Start, origin: MemoryOrigin) -> None:
    """A range of a blob that is not complete is checked by piece digests alone, and there are none yet."""
    origin.wrong = True
    engine = await start("a")
    blob = Descriptor(Digest.of(CONTENT), len(CONTENT))
    origin.put(CONTENT)
    assert await read_ranges(engine, blob, (0, 10), behind=Behind.NOTHING) == bytes(10)
    with pytest.raises(DownloadFailed):
        await read(engine, blob)
    assert engine.store.size(blob.digest) is None


async def test_blobs_that_nobody_reads_make_room_and_others_do_not(
    start: Start, origin: MemoryOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.shelf._FILE_SECONDS", 0.3)
    engine = await start("a", budget=Budget(open_blobs=2))
    blobs = [origin.put(random_bytes(MIB, name)) for name in range(4)]
    for blob in blobs:
        assert await read_ranges(engine, blob, (0, 9), behind=Behind.NOTHING) == origin.contents[blob.digest][:9]
    assert origin.sent == 4 * LAYOUT.piece_size
    origin.gate.clear()
    asked = Asked((ByteRange(MIB - 9, MIB),), Behind.NOTHING)
    async with contextlib.AsyncExitStack() as readers:
        for blob in blobs[:3]:
            await readers.enter_async_context(await engine.supply.open(blob, AT, asked))
        assert [engine.blobs[blob.key].passes for blob in blobs[:3]] == [False, False, True]
