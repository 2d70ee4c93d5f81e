"""Whole engines with real sockets and stores, a supernode, and an origin in memory."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from peer.blob import BlobInProgress
from peer.budget import Budget
from peer.disk import StoreError, Tampered
from peer.engine import Engine
from peer.errors import DigestMismatch, DownloadFailed
from peer.origin import OriginDenied, OriginNotFound, OriginUnavailable
from peer.partial import Partial
from peer.settings import PeerSettings
from peer.store import Store
from peer.watched import WatchedFile
from peer.workers import Workers
from shoal.descriptor import BlobKey, Descriptor
from shoal.digest import Digest
from shoal.pieces import MIB, PieceLayout
from shoal.reference import Location
from supernode import protocol
from supernode.server import SupernodeServer
from supernode.settings import SupernodeSettings
from tests.world.engines import AT, CHUNK, Collected, MemoryOrigin, Start, read, until
from tests.world.images import random_bytes


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
    async with await engine.supply.open(blob, AT) as opened:
        with pytest.raises((DigestMismatch, DownloadFailed)):
            await opened.ready(blob.size - 1)
    assert engine.store.size(blob.digest) is None
    origin.wrong = False
    assert await read(engine, blob) == content


async def test_an_origin_that_breaks_off_is_an_error_and_leaves_no_blob(
    start: Start, origin: MemoryOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.machine._GIVE_UP_SECONDS", 2.0)
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
    engine.supply.expect(blobs, AT)
    await read(engine, blobs[2])
    await until(lambda: all(engine.store.size(blob.digest) for blob in blobs[2:]))
    assert [engine.store.size(blob.digest) for blob in blobs[:2]] == [None, None]


async def test_a_manifest_alone_starts_nothing(start: Start, origin: MemoryOrigin) -> None:
    engine = await start("a")
    engine.supply.expect([origin.put(b"layer")], AT)
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


# --- faults -------------------------------------------------------------------------------------------------------

ELSEWHERE = Location.parse("quay.io", "made/elsewhere")
SEEDS = range(36)


@dataclass
class FaultyBody:
    """Breaks off at random places, and may be other bytes than those of the attempt before."""

    start: int
    size: int | None
    content: bytes
    rng: random.Random
    harm: float

    async def chunks(self) -> AsyncIterator[bytes]:
        content, end = bytearray(self.content), len(self.content)
        if self.rng.random() < self.harm:
            end = self.rng.randrange(end + 1)
        if self.rng.random() < self.harm / 2:
            first = self.rng.randrange(len(content))
            content[first:] = bytes(255 - byte for byte in content[first:])
        for offset in range(0, end, CHUNK):
            yield bytes(content[offset : min(offset + CHUNK, end)])
            for _ in range(self.rng.randrange(4)):
                await asyncio.sleep(0)
        if end < len(content):
            raise OriginUnavailable("broke off")


@dataclass
class FaultyOrigin(MemoryOrigin):
    """Does harm at random, each blob's by its own seed, a bounded number of times. A place may fail in one way."""

    rngs: dict[Digest, random.Random] = field(default_factory=dict)
    attempts: Counter[Digest] = field(default_factory=Counter)
    bad: dict[Location, str] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def fetch(  # type: ignore[override]
        self, location: Location, blob: Descriptor, start: int = 0, end: int | None = None
    ) -> AsyncIterator[FaultyBody]:
        self.attempts[blob.digest] += 1
        match self.bad.get(location):
            case "denied":
                raise OriginDenied("403")
            case "unavailable":
                raise OriginUnavailable("503")
            case "silent":
                await asyncio.Event().wait()
        rng = self.rngs.get(blob.digest)
        harm = 0.7 if rng is not None and self.attempts[blob.digest] < 6 else 0.0
        content = self.contents[blob.digest]
        yield FaultyBody(start, len(content), content[start:end], rng or random.Random(0), harm)


async def begun(
    stack: contextlib.AsyncExitStack, folder: Path, origin: MemoryOrigin, budget: Budget | None = None
) -> Engine:
    """An engine without a supernode."""
    store = Store(folder)
    store.open()
    stack.callback(store.close)
    settings = PeerSettings(host="127.0.0.1", port=0, origin_wait=0.5)
    return await stack.enter_async_context(
        Engine(settings, store, origin, None, CollectorRegistry(), budget or Budget())
    )


def open_partials(engine: Engine) -> list[str]:
    """The partial blobs that this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))  # noqa: PTH115
    folder = str(engine.store.root / "partial")
    return [path for path in found if path.startswith(folder) and path.endswith(".data")]


def is_quiet(engine: Engine) -> bool:
    """Nothing runs but the tick and the store's upkeep, and nothing is open."""
    sourcing, requests = engine.machine.sourcing, engine.machine.exchange.requests
    idle = not engine.blobs and not sourcing.streams and not requests.count and not engine.machine.sought
    return idle and len(engine._tasks) == 2 and not engine._fetcher._tasks and not open_partials(engine)


async def test_a_clean_end_means_the_right_bytes_however_the_origin_fails(
    stack: contextlib.AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a part: those that landed last, since nobody can know better before the whole is verified."""
    origin = FaultyOrigin()
    engine = await begun(stack, tmp_path, origin)
    landed: dict[Digest, dict[int, bytes]] = {}
    land = BlobInProgress.land

    def recorded(blob: BlobInProgress, index: int, content: bytearray, digest: bytes, *, from_origin: bool) -> None:
        land(blob, index, content, digest, from_origin=from_origin)
        landed.setdefault(blob.descriptor.digest, {})[index] = bytes(content)

    monkeypatch.setattr(BlobInProgress, "land", recorded)
    clean = Counter[bool]()

    async def pull(seed: int, blob: Descriptor, content: bytes, start: int, end: int) -> None:
        try:
            given = await read(engine, blob, start, end)
        except (DownloadFailed, OriginUnavailable):
            clean[False] += 1
            return
        clean[True] += 1
        right = content[start:end]
        if given != right and end < blob.size:
            layout = PieceLayout.of(blob.size)
            pieces = range(layout.at(start), layout.at(end - 1) + 1)
            first = layout.span(pieces[0]).start
            whole = b"".join(landed[blob.digest][index] for index in pieces)
            right = whole[start - first : end - first]
        assert given == right, f"seed {seed}: bytes {start} to {end}"

    async def pull_all(seed: int) -> None:
        rng = random.Random(seed)
        content = random_bytes(rng.choice([100_000, MIB, 3 * MIB]) + seed, f"faulty {seed}")
        blob = origin.put(content)
        origin.rngs[blob.digest] = random.Random(seed)
        ranges = [(0, blob.size), (0, blob.size)]
        for _ in range(3):
            start = rng.randrange(blob.size)
            ranges.append((start, rng.randrange(start, blob.size) + 1))
        await asyncio.gather(*(pull(seed, blob, content, start, end) for start, end in ranges))
        origin.attempts[blob.digest] = 1000
        for _ in range(2):  # one that failed a moment ago, and a good one
            with contextlib.suppress(DownloadFailed, OriginUnavailable):
                await pull(seed, blob, content, 0, blob.size)

    await asyncio.gather(*(pull_all(seed) for seed in SEEDS))
    assert clean[True] > len(SEEDS)
    assert clean[False]
    await until(lambda: is_quiet(engine))


@pytest.mark.parametrize("how", ["denied", "unavailable", "silent"])
@pytest.mark.parametrize("first", ["good", "bad"])
async def test_of_two_places_of_a_blob_each_reader_is_answered_for_its_own(
    stack: contextlib.AsyncExitStack, tmp_path: Path, how: str, first: str
) -> None:
    origin = FaultyOrigin(bad={ELSEWHERE: how})
    engine = await begun(stack, tmp_path, origin)
    content = random_bytes(MIB + 5, f"{how} {first}")
    blob = origin.put(content)

    async def pull(location: Location) -> bytes:
        async with await engine.supply.open(blob, location) as opened:
            await opened.ready(0)
            client = Collected()
            await opened.send(client, 0, blob.size)
            return bytes(client.content)

    places = [AT, ELSEWHERE] if first == "good" else [ELSEWHERE, AT]
    tasks = [asyncio.create_task(pull(place)) for place in places]
    outcomes = dict(zip(places, await asyncio.gather(*tasks, return_exceptions=True), strict=True))
    assert outcomes[AT] == content
    bad = outcomes[ELSEWHERE]
    assert bad == content or (how == "denied" and isinstance(bad, OriginDenied))
    if how == "denied" and first == "bad":
        assert isinstance(bad, OriginDenied)
    await until(lambda: is_quiet(engine))


@pytest.mark.parametrize(
    "method",
    [
        "write",
        "mark",
        "check",
        "finish",
    ],
)
async def test_the_store_fails_and_the_blob_can_be_fetched_again(
    stack: contextlib.AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    origin = FaultyOrigin()
    engine = await begun(stack, tmp_path, origin)
    content = random_bytes(3 * MIB + 5, method)
    blob = origin.put(content)
    calls = 0

    def failing(*_: object) -> None:
        nonlocal calls
        calls += 1
        if method not in ("write", "mark") or calls == 5:
            raise StoreError("injected")
        real(*_)

    real = getattr(Partial, method)
    monkeypatch.setattr(Partial, method, failing)
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*(read(engine, blob) for _ in range(3)), return_exceptions=True)
    for outcome in outcomes:
        # what cannot be written passes by the store; what cannot be judged is given to nobody
        assert outcome == content if method in ("write", "finish") else isinstance(outcome, DownloadFailed)
    monkeypatch.setattr(Partial, method, real)
    await until(lambda: not engine.blobs)
    assert await read(engine, blob) == content
    await until(lambda: is_quiet(engine))
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1  # noqa: PTH208 - the index opens its file late
    assert engine.store.size(blob.digest) == blob.size


async def test_writes_that_outlive_a_failed_blob_do_not_harm_it_when_it_is_fetched_again(
    stack: contextlib.AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = FaultyOrigin()
    engine = await begun(stack, tmp_path, origin)
    content = random_bytes(MIB, "slow write")
    blob = origin.put(content)
    others_came, slow = threading.Event(), threading.Event()
    real_write, real_run, calls = WatchedFile.write, Workers.run, itertools.count(1)

    def write(file: WatchedFile, offset: int, view: memoryview) -> None:
        match next(calls):
            case 1:
                assert others_came.wait(10)
                raise Tampered("injected")
            case 2:
                assert slow.wait(10)
        real_write(file, offset, view)

    jobs = itertools.count(1)

    async def run(workers: Workers, work: Callable[..., object], *args: object) -> object:
        if next(jobs) == 3:
            asyncio.get_running_loop().call_soon(others_came.set)
        return await real_run(workers, work, *args)

    monkeypatch.setattr(WatchedFile, "write", write)
    monkeypatch.setattr(Workers, "run", run)
    async with asyncio.timeout(10):
        with pytest.raises(DownloadFailed):
            await read(engine, blob)
        asyncio.get_running_loop().call_later(0.3, slow.set)
        assert await read(engine, blob) == content


async def test_an_idle_reader_of_a_failed_blob_does_not_keep_others_from_it(
    stack: contextlib.AsyncExitStack, tmp_path: Path
) -> None:
    origin = FaultyOrigin(bad={AT: "denied"})
    engine = await begun(stack, tmp_path, origin)
    content = random_bytes(MIB, "idle")
    blob = origin.put(content)
    async with await engine.supply.open(blob, AT) as idle:
        with pytest.raises(OriginDenied):
            await read(engine, blob)
        del origin.bad[AT]
        assert await read(engine, blob) == content
        with pytest.raises(OriginDenied):
            await idle.ready(0)
    await until(lambda: is_quiet(engine))


@pytest.mark.parametrize(
    "asked",
    [
        range(1),
        range(0, 600, 60),
        range(600),
        [0, *range(300, 340)],
    ],
    ids=["the first", "some", "all", "the first and some in the middle"],
)
async def test_an_image_of_many_layers_comes_within_the_budget_of_open_files(
    stack: contextlib.AsyncExitStack, tmp_path: Path, asked: Sequence[int]
) -> None:
    origin = FaultyOrigin()
    engine = await begun(stack, tmp_path, origin, Budget(open_blobs=8))
    layers = [origin.put(random_bytes(500, f"layer {place}")) for place in range(600)]
    engine.supply.expect(layers, AT)
    opened: list[int] = []
    opening = engine.store.partial

    def counted(key: BlobKey) -> Partial:
        partial = opening(key)
        opened.append(len(open_partials(engine)))
        return partial

    engine.store.partial = counted  # type: ignore[method-assign]
    assert await read(engine, layers[0]) == origin.contents[layers[0].digest]
    contents = await asyncio.gather(*(read(engine, layers[place]) for place in asked))
    assert contents == [origin.contents[layers[place].digest] for place in asked]
    await until(lambda: is_quiet(engine))
    assert all(engine.store.size(layer.digest) == 500 for layer in layers)
    assert 1 < max(opened) <= 8
    assert set(origin.attempts.values()) == {1}


async def test_a_blob_is_asked_for_at_the_moment_when_it_would_be_opened_ahead(
    stack: contextlib.AsyncExitStack, tmp_path: Path
) -> None:
    origin = FaultyOrigin()
    engine = await begun(stack, tmp_path, origin)
    blob = origin.put(random_bytes(500, "both"))
    engine._shelf._ahead[blob.key] = blob, AT  # as where others have just left room
    async with asyncio.timeout(5):
        assert await read(engine, blob) == origin.contents[blob.digest]


async def test_pieces_that_are_void_while_the_verified_blob_is_put_in_place_fail_nobody(
    stack: contextlib.AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = FaultyOrigin()
    engine = await begun(stack, tmp_path, origin)
    content = random_bytes(MIB, "void at the end")
    blob = origin.put(content)
    finish = BlobInProgress.finish

    async def voided(progress: BlobInProgress) -> None:
        engine.machine.sought[blob.key].own = 0
        finishing = asyncio.ensure_future(finish(progress))
        await asyncio.sleep(0)
        engine._contact.receive(protocol.Void(*blob.key))
        await finishing

    monkeypatch.setattr(BlobInProgress, "finish", voided)
    assert await read(engine, blob) == content
    await until(lambda: engine.store.size(blob.digest) == blob.size and is_quiet(engine))
    assert await read(engine, blob) == content
