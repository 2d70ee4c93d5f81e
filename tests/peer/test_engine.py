"""Whole engines with real sockets and stores, a supernode, and an origin in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from peer.budget import Budget
from peer.engine import Engine
from peer.errors import DigestMismatch, DownloadFailed
from peer.origin import OriginNotFound, OriginUnavailable
from peer.settings import PeerSettings
from peer.store import Store
from shoal.descriptor import Descriptor
from shoal.digest import Digest
from shoal.pieces import MIB
from shoal.reference import Location
from supernode.client import ControlClient
from supernode.server import SupernodeServer
from supernode.settings import SupernodeSettings
from tests.world.images import random_bytes

AT = Location.parse("docker.io", "library/made")
_CHUNK = 32 << 10


@dataclass
class MemoryBody:
    start: int
    size: int | None
    content: bytes
    origin: MemoryOrigin

    async def chunks(self) -> AsyncIterator[bytes]:
        for offset in range(0, len(self.content), _CHUNK):
            await self.origin.gate.wait()
            chunk = self.content[offset : offset + _CHUNK]
            self.origin.sent += len(chunk)
            yield chunk
            await asyncio.sleep(0)
            if self.origin.breaks:
                raise OriginUnavailable("broke off")


@dataclass
class MemoryOrigin:
    """An origin that fails as it is told."""

    contents: dict[Digest, bytes] = field(default_factory=dict)
    sent: int = 0
    requests: int = 0
    ranges: bool = True
    breaks: bool = False
    wrong: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, content: bytes) -> Descriptor:
        digest = Digest.of(content)
        self.contents[digest] = content
        return Descriptor(digest, len(content))

    @contextlib.asynccontextmanager
    async def fetch(
        self, location: Location, blob: Descriptor, start: int = 0, end: int | None = None
    ) -> AsyncIterator[MemoryBody]:
        self.requests += 1
        content = self.contents.get(blob.digest)
        if content is None:
            raise OriginNotFound("not here")
        if self.wrong:
            content = bytes(len(content))
        if not self.ranges:
            start, end = 0, None
        yield MemoryBody(start, len(content), content[start:end], self)


@pytest.fixture
def origin() -> MemoryOrigin:
    origin = MemoryOrigin()
    origin.gate.set()
    return origin


@pytest.fixture
async def stack() -> AsyncIterator[contextlib.AsyncExitStack]:
    async with contextlib.AsyncExitStack() as stack:
        yield stack


Start = Callable[..., "asyncio.Future[Engine]"]


@pytest.fixture
def start(stack: contextlib.AsyncExitStack, origin: MemoryOrigin, tmp_path: Path) -> Start:
    """Starts an engine by name; the same name has the same store."""

    async def begin(name: str, supernode: SupernodeServer | None = None) -> Engine:
        store = Store(tmp_path / name)
        store.open()
        stack.callback(store.close)
        control = ControlClient(f"http://127.0.0.1:{supernode.port}") if supernode else None
        settings = PeerSettings(host="127.0.0.1", port=0, origin_wait=0.5)
        engine = Engine(settings, store, origin, control, CollectorRegistry(), Budget())
        await stack.enter_async_context(engine)
        await until(lambda: supernode is None or engine.machine.connected)
        return engine

    return begin  # type: ignore[return-value]


@pytest.fixture
async def supernode(stack: contextlib.AsyncExitStack) -> SupernodeServer:
    return await stack.enter_async_context(SupernodeServer(SupernodeSettings(port=0), CollectorRegistry()))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for are counters of others
            await asyncio.sleep(0.005)


class Collected:
    """A client that keeps what it is given."""

    def __init__(self) -> None:
        self.content = bytearray()

    async def write(self, content: bytes | memoryview) -> None:
        self.content += content

    async def send_file(self, file: int, start: int, end: int) -> None:
        self.content += os.pread(file, end - start, start)


async def read(engine: Engine, blob: Descriptor, start: int = 0, end: int | None = None) -> bytes:
    async with await engine.open(blob, AT) as opened:
        await opened.ready(start)
        client = Collected()
        await opened.send(client, start, blob.size if end is None else end)
        return bytes(client.content)


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3 * MIB + 17])
async def test_a_lone_engine_reads_from_the_origin_once(start: Start, origin: MemoryOrigin, size: int) -> None:
    engine = await start("a")
    content = random_bytes(size, size)
    blob = origin.put(content)
    assert await read(engine, blob) == content
    await until(lambda: engine.store.size(blob.digest) == size)
    assert await read(engine, blob) == content
    assert (origin.sent, origin.requests <= 1) == (size, True)


@pytest.mark.parametrize("count", [2, 4])
async def test_several_engines_take_each_byte_from_the_origin_once(
    start: Start, origin: MemoryOrigin, supernode: SupernodeServer, count: int
) -> None:
    content = random_bytes(24 * MIB, "several")
    blob = origin.put(content)
    engines = [await start(str(place), supernode) for place in range(count)]
    assert await asyncio.gather(*(read(engine, blob) for engine in engines)) == [content] * count
    assert origin.sent <= 1.02 * len(content)


async def test_all_who_ask_share_one_download(start: Start, origin: MemoryOrigin) -> None:
    engine = await start("a")
    content = random_bytes(2 * MIB, "shared")
    blob = origin.put(content)
    assert await asyncio.gather(*(read(engine, blob) for _ in range(10))) == [content] * 10
    assert origin.sent == len(content)


async def test_a_range_is_read_before_the_blob_is_there(start: Start, origin: MemoryOrigin) -> None:
    engine = await start("a")
    content = random_bytes(16 * MIB, "range")
    blob = origin.put(content)
    assert await read(engine, blob, 100, 2000) == content[100:2000]
    assert origin.sent < len(content)


async def test_the_last_piece_waits_for_the_digest(start: Start, origin: MemoryOrigin) -> None:
    engine = await start("a")
    content = random_bytes(2 * MIB, "wrong")
    blob = origin.put(content)
    origin.wrong = True
    with pytest.raises(DigestMismatch):
        await read(engine, blob)
    async with await engine.open(blob, AT) as opened:
        with pytest.raises((DigestMismatch, DownloadFailed)):
            await opened.ready(blob.size - 1)
    assert engine.store.size(blob.digest) is None
    origin.wrong = False
    assert await read(engine, blob) == content


async def test_an_origin_that_breaks_off_is_an_error_and_leaves_no_blob(start: Start, origin: MemoryOrigin) -> None:
    engine = await start("a")
    blob = origin.put(random_bytes(2 * MIB, "broken"))
    origin.breaks = True
    with pytest.raises(OriginUnavailable):
        await read(engine, blob)
    assert engine.store.size(blob.digest) is None


async def test_an_origin_without_ranges_serves_the_swarm(
    start: Start, origin: MemoryOrigin, supernode: SupernodeServer
) -> None:
    origin.ranges = False
    content = random_bytes(3 * MIB, "no ranges")
    blob = origin.put(content)
    engines = [await start(name, supernode) for name in "ab"]
    assert await asyncio.gather(*(read(engine, blob) for engine in engines)) == [content] * 2


async def test_what_the_origin_does_not_have_is_told_at_once(start: Start, origin: MemoryOrigin) -> None:
    engine = await start("a")
    with pytest.raises(OriginNotFound):
        await read(engine, Descriptor(Digest.of(b"absent"), 10))


async def test_the_first_blob_of_an_image_opens_those_behind_it(start: Start, origin: MemoryOrigin) -> None:
    engine = await start("a")
    blobs = [origin.put(random_bytes(100_000, place)) for place in range(6)]
    engine.expect(blobs, AT)
    await read(engine, blobs[2])
    await until(lambda: all(engine.store.size(blob.digest) for blob in blobs[2:]))
    assert [engine.store.size(blob.digest) for blob in blobs[:2]] == [None, None]


async def test_a_manifest_alone_starts_nothing(start: Start, origin: MemoryOrigin) -> None:
    engine = await start("a")
    engine.expect([origin.put(b"layer")], AT)
    await asyncio.sleep(0)
    assert origin.requests == 0


async def test_what_was_fetched_before_a_stop_is_not_fetched_again(start: Start, origin: MemoryOrigin) -> None:
    content = random_bytes(16 * MIB, "resume")
    in_hand = 5 * MIB  # what waits to be hashed and written, and the piece that grows
    blob = origin.put(content)
    first = await start("a")
    reading = asyncio.create_task(read(first, blob))
    await until(lambda: origin.sent >= 8 * MIB)
    origin.gate.clear()
    await first.stop(0.0)
    with pytest.raises(DownloadFailed):
        await reading
    fetched, origin.sent = origin.sent, 0
    first.store.close()
    origin.gate.set()
    assert await read(await start("a"), blob) == content
    assert origin.sent <= len(content) - fetched + in_hand


async def test_the_supernode_may_go_in_mid_pull(
    start: Start, origin: MemoryOrigin, stack: contextlib.AsyncExitStack
) -> None:
    content = random_bytes(4 * MIB, "gone")
    blob = origin.put(content)
    async with SupernodeServer(SupernodeSettings(port=0), CollectorRegistry()) as supernode:
        engines = [await start(name, supernode) for name in "ab"]
        pulls = [asyncio.create_task(read(engine, blob)) for engine in engines]
        await until(lambda: origin.sent >= MIB)
    assert await asyncio.gather(*pulls) == [content] * 2
