"""Limits of real engines over real sockets: how fast bytes come, and what that does to those who wait."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Awaitable

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from peer.bucket import BURST_SECONDS
from peer.engine import Engine
from peer.metrics import LimitMetrics
from peer.throttle import Throttle
from shoal.descriptor import Descriptor
from shoal.limits import Traffic
from supernode.server import SupernodeServer
from tests.world.engines import MemoryOrigin, Start, read

MB = 10**6
RATE = 10 * MB
SIZE = 5 * MB
LEAST_SECONDS = SIZE / RATE - BURST_SECONDS
MOST_SECONDS = 1.5 * SIZE / RATE
"""On a machine that has other things to do. What it is on a quiet one stands in docs/limits.md."""


async def seconds(reading: Awaitable[bytes], wanted: int = SIZE) -> float:
    began = time.monotonic()
    assert len(await reading) == wanted
    return time.monotonic() - began


async def seeded(
    start: Start, supernode: SupernodeServer, origin: MemoryOrigin, size: int = SIZE
) -> tuple[Engine, Engine, Descriptor]:
    """A peer that has a blob, and one that has not."""
    blob = origin.put(os.urandom(size))
    seed, leech = await start("seed", supernode), await start("leech", supernode)
    await read(seed, blob)
    return seed, leech, blob


async def test_uploads_keep_their_limit(start: Start, supernode: SupernodeServer, origin: MemoryOrigin) -> None:
    seed, leech, blob = await seeded(start, supernode, origin)
    seed.limits.order(Traffic.UPLOAD, RATE)
    assert LEAST_SECONDS < await seconds(read(leech, blob)) < MOST_SECONDS


async def test_downloads_keep_their_limit_and_blame_nobody(
    start: Start, supernode: SupernodeServer, origin: MemoryOrigin
) -> None:
    _, leech, blob = await seeded(start, supernode, origin)
    leech.limits.order(Traffic.DOWNLOAD, RATE)
    with capture_logs() as logs:
        assert LEAST_SECONDS < await seconds(read(leech, blob)) < MOST_SECONDS
    assert not [line for line in logs if line["event"] in {"neighbour.gone", "neighbour.shunned"}]
    assert leech.machine.exchange.requests.depth < 24


async def test_what_an_origin_sends_keeps_both_limits_that_it_falls_under(start: Start, origin: MemoryOrigin) -> None:
    engine = await start("lone")
    for traffic, other in ((Traffic.ORIGIN, Traffic.DOWNLOAD), (Traffic.DOWNLOAD, Traffic.ORIGIN)):
        engine.limits.order(traffic, RATE)
        engine.limits.order(other, 3 * RATE)
        blob = origin.put(os.urandom(SIZE))
        assert LEAST_SECONDS < await seconds(read(engine, blob)) < MOST_SECONDS


async def test_all_streams_of_a_node_share_what_origins_may_send(start: Start, origin: MemoryOrigin) -> None:
    engine = await start("lone")
    engine.limits.order(Traffic.ORIGIN, RATE)
    blobs = [origin.put(os.urandom(SIZE // 4)) for _ in range(4)]
    began = time.monotonic()
    await asyncio.gather(*(read(engine, blob) for blob in blobs))
    assert LEAST_SECONDS < time.monotonic() - began < MOST_SECONDS


@pytest.mark.parametrize("traffic", [Traffic.UPLOAD, Traffic.DOWNLOAD])
async def test_a_limit_that_is_lifted_counts_for_what_is_underway(
    start: Start, supernode: SupernodeServer, origin: MemoryOrigin, traffic: Traffic
) -> None:
    seed, leech, blob = await seeded(start, supernode, origin)
    limits = seed.limits if traffic is Traffic.UPLOAD else leech.limits
    limits.order(traffic, RATE / 20)
    reading = asyncio.ensure_future(read(leech, blob))
    await asyncio.sleep(0.2)
    assert not reading.done()
    limits.order(traffic, None)
    assert await seconds(reading) < 5  # at the old rate ten


async def test_who_waits_goes_as_soon_as_a_limit_lets_it_and_not_when_it_is_cancelled() -> None:
    throttle, gone = Throttle(LimitMetrics(CollectorRegistry())), asyncio.Queue[str]()
    throttle.change(Traffic.ORIGIN, MB)
    throttle.change(Traffic.DOWNLOAD, MB)
    for name in ("cancelled", "first", "second"):
        turn = throttle.origin.book(100 * MB, functools.partial(gone.put_nowait, name))
        assert turn is not None
        if name == "cancelled":
            turn.cancel()
    throttle.change(Traffic.ORIGIN, 0.0)
    await asyncio.sleep(0)
    assert gone.empty()  # the other limit holds
    throttle.change(Traffic.DOWNLOAD, 0.0)
    assert {gone.get_nowait(), gone.get_nowait()} == {"first", "second"}
    assert gone.empty()
    assert not throttle.waiting
    assert throttle.origin.portion == 0


async def test_an_engine_that_stops_while_bytes_wait_stops_at_once(start: Start, origin: MemoryOrigin) -> None:
    engine = await start("lone")
    engine.limits.order(Traffic.ORIGIN, RATE / 50)
    reading = asyncio.ensure_future(read(engine, origin.put(os.urandom(SIZE))))
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await engine.stop(0.0)
    with pytest.raises(Exception, match="shutting down"):
        await reading
    assert time.monotonic() - began < 1
