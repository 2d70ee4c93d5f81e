from __future__ import annotations

import asyncio

import pytest

from proxy.flight import SingleFlight


async def test_work_is_done_once_for_all_who_ask() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    gate, calls = asyncio.Event(), 0

    async def work() -> int:
        nonlocal calls
        calls += 1
        await gate.wait()
        return calls

    asking = [asyncio.create_task(flights.run("k", work)) for _ in range(5)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*asking) == [1] * 5
    assert await flights.run("k", work) == 2
    assert len(flights) == 0


async def test_an_error_goes_to_all() -> None:
    flights: SingleFlight[str, int] = SingleFlight()

    async def work() -> int:
        raise LookupError

    results = await asyncio.gather(flights.run("k", work), flights.run("k", work), return_exceptions=True)
    assert [type(each) for each in results] == [LookupError, LookupError]


async def test_who_gives_up_does_not_end_it_for_others() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    gate = asyncio.Event()

    async def work() -> int:
        await gate.wait()
        return 7

    first = asyncio.create_task(flights.run("k", work))
    second = asyncio.create_task(flights.run("k", work))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.set()
    assert await second == 7


async def test_close_cancels_what_is_underway() -> None:
    flights: SingleFlight[str, None] = SingleFlight()
    asking = asyncio.create_task(flights.run("k", asyncio.Event().wait))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await flights.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len(flights) == 0


async def test_work_that_is_begun_while_all_is_closed_ends_as_well() -> None:
    flights: SingleFlight[str, None] = SingleFlight()
    late: list[asyncio.Task[None]] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            late.append(asyncio.create_task(flights.run("other", asyncio.Event().wait)))  # type: ignore[arg-type]
            await asyncio.sleep(0)

    asking = asyncio.create_task(flights.run("k", work))
    await asyncio.sleep(0)
    await flights.close()
    await asyncio.gather(asking, *late, return_exceptions=True)
    assert len(flights) == 0


async def test_work_that_nobody_waits_for_any_more_ends_by_itself() -> None:
    flights: SingleFlight[str, None] = SingleFlight()
    gate = asyncio.Event()

    async def work() -> None:
        await gate.wait()
        raise LookupError

    asking = asyncio.create_task(flights.run("k", work))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert len(flights) == 1
    gate.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(flights) == 0
