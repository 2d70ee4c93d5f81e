"""Schedules by a clock that is moved by hand."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from shoal.reference import Location
from supernode import protocol
from supernode.preheating.board import PreheatBoard
from supernode.preheating.calendar import FILE, Calendar
from supernode.preheating.schedules import ScheduleState, is_due, next_run
from supernode.preheating.settings import ScheduleSettings
from tests.supernode.preheating.conftest import World

HOUR = 3600.0
BASE = ScheduleSettings(cron="0 * * * *", images=["docker.io/library/alpine:3.*"], keep=2, pin=True)


def calendar_of(world: World, board: PreheatBoard, **schedules: ScheduleSettings) -> Calendar:
    return Calendar(schedules, board, world.folder, CollectorRegistry(), lambda: world.now)


def images(world: World) -> list[str]:
    return sorted(each.image for each in world.take(protocol.Preheat) if isinstance(each, protocol.Preheat))


def kept(world: World) -> list[tuple[str, ...]]:
    return [tuple(each.names) for each in world.take(protocol.KeepPins) if isinstance(each, protocol.KeepPins)]


async def test_a_schedule_runs_when_it_is_due_and_keeps_the_newest(world: World) -> None:
    world.tags = ["3.9", "3.20", "3.19"]
    async with world.board() as board, calendar_of(world, board, base=BASE) as calendar:
        world.join("a")
        assert kept(world) == []
        await calendar.look()
        assert images(world) == []
        world.now += HOUR
        await calendar.look()
        (job,) = board.jobs.values()
        assert (job.record.by, job.record.order.pin) == ("schedule base", True)
        assert world.refreshed == [Location.parse("docker.io", "library/alpine")]
        assert job.record.order.images == ["docker.io/library/alpine:3.20", "docker.io/library/alpine:3.19"]
        await calendar.look()
        assert len(board.jobs) == 1
        world.finish()
        names = tuple(f"schedule:base {image}" for image in job.record.order.images)
        assert kept(world) == [names]
        assert calendar.shown()[0]["kept"] == job.record.order.images
        world.join("b")
        assert kept(world) == [names]


async def test_a_restart_neither_forgets_a_run_nor_does_it_twice(world: World) -> None:
    plain = msgspec.structs.replace(BASE, images=["docker.io/library/alpine:3.20"])
    async with world.board() as board, calendar_of(world, board, base=plain) as calendar:
        world.join("a")
        world.now += HOUR
        await calendar.look()
    assert len(images(world)) == 1
    world.roster.leave(next(iter(world.roster)).peer)
    async with world.board() as board, calendar_of(world, board, base=plain) as calendar:
        await calendar.look()
        assert len(board.jobs) == 1
        world.join("a")
        world.finish()
        world.now += 5 * HOUR
    async with world.board() as board, calendar_of(world, board, base=plain) as calendar:
        world.join("a")
        await calendar.look()
        await calendar.look()
        assert len(board.jobs) == 2


async def test_what_was_due_before_a_start_waits_for_nodes_to_return(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supernode.preheating.calendar._LOOK_SECONDS", 0.0)
    monkeypatch.setattr("supernode.preheating.calendar._RETURN_SECONDS", 3600.0)
    (world.folder / FILE).write_bytes(msgspec.json.encode({"base": ScheduleState(world.now - 2 * HOUR)}))
    async with world.board() as board, calendar_of(world, board, base=BASE) as calendar:
        for _ in range(10):
            await asyncio.sleep(0)
        assert (calendar.shown()[0]["error"], list(board.jobs)) == ("", [])


async def test_a_run_is_written_down_before_anything_comes_of_it(world: World) -> None:
    written: list[float] = []

    def read() -> None:
        states = msgspec.json.decode((world.folder / FILE).read_bytes(), type=dict[str, ScheduleState])
        written.append(states["base"].last_run)

    world.tags, world.asked = ["3.20"], read
    async with world.board() as board, calendar_of(world, board, base=BASE) as calendar:
        world.join("a")
        world.now += HOUR
        await calendar.look()
    assert written == [world.now]


async def test_what_a_schedule_has_pinned_is_let_go_when_it_ends(world: World) -> None:
    world.tags = ["3.20"]
    ending = msgspec.structs.replace(BASE, ends="2023-11-15")  # the next day
    async with world.board() as board, calendar_of(world, board, base=ending) as calendar:
        world.join("a")
        world.now += HOUR
        await calendar.look()
        world.finish()
        assert kept(world)[-1] != ()
        world.now += 48 * HOUR
        await calendar.look()
        assert kept(world) == [()]
        assert len(board.jobs) == 1
        assert calendar.shown()[0]["next_run"] is None
    async with world.board() as board, calendar_of(world, board):  # it is no more in the configuration
        world.take(protocol.KeepPins)
        world.join("b")
        assert kept(world) == [()]


async def test_a_run_that_cannot_begin_is_told_and_keeps_what_was(world: World) -> None:
    async with world.board() as board, calendar_of(world, board, base=BASE) as calendar:
        world.join("a")
        world.now += HOUR
        await calendar.look()
        assert (calendar.shown()[0]["error"], len(board.jobs)) == ("no tag matches", 0)


async def test_a_node_that_cannot_list_the_tags_keeps_no_run_from_beginning(world: World) -> None:
    world.tags = ["3.20"]
    async with world.board() as board, calendar_of(world, board, base=BASE) as calendar:
        world.join("a")
        world.join("b")
        world.now += HOUR
        world.refusals = 1
        await calendar.look()
        assert (calendar.shown()[0]["error"], len(board.jobs)) == ("", 1)
        world.now += HOUR
        world.finish()
        world.refusals = 2
        await calendar.look()
        assert "cannot list the tags: the registry refuses this node" in str(calendar.shown()[0]["error"])


def test_however_many_runs_were_missed_one_is_made_up_for() -> None:
    state = ScheduleState(0.0)
    assert next_run(BASE, 0.0) == HOUR
    assert is_due(BASE, state, 10 * HOUR)
    state.last_run = 10 * HOUR
    assert not is_due(BASE, state, 10.5 * HOUR)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"cron": "61 * * * *"}, "cron"),
        ({"ends": "tomorrow"}, "ends"),
        ({"images": ["a b"]}, "repository"),
        ({"nodes": "0"}, "names no nodes"),
        ({"platforms": ["linux"]}, "platform"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert({"cron": "0 * * * *", "images": ["alpine:3"], **wrong}, ScheduleSettings)


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"base": 3}', b"\xff"])
async def test_pins_stay_where_nobody_knows_any_more_what_is_kept(world: World, content: bytes | None) -> None:
    world.tags = ["3.20"]
    async with world.board() as board, calendar_of(world, board, base=BASE) as calendar:
        world.join("a")
        world.now += HOUR
        await calendar.look()
        world.finish()
    (world.folder / FILE).unlink()
    if content is not None:
        (world.folder / FILE).write_bytes(content)
    world.take(protocol.KeepPins)
    async with world.board() as board, calendar_of(world, board, base=BASE) as calendar:
        world.join("b")
        assert kept(world) == []
        world.now += HOUR
        await calendar.look()
        world.finish()
        assert ("schedule:base docker.io/library/alpine:3.20",) in kept(world)


async def test_what_a_cancelled_run_has_pinned_is_let_go(world: World) -> None:
    world.tags = ["3.20"]
    async with world.board() as board, calendar_of(world, board, base=BASE) as calendar:
        world.join("a")
        world.now += HOUR
        await calendar.look()
        world.finish()
        before = kept(world)[-1]
        world.tags, world.now = ["3.21", "3.20"], world.now + HOUR
        await calendar.look()
        job = list(board.jobs.values())[-1]
        board.cancel(job)
        world.now += 60
        board.decide(job)
        assert (job.state, kept(world)) == ("cancelled", [before])


async def test_a_clock_that_was_wrong_does_not_stop_a_schedule(world: World) -> None:
    plain = msgspec.structs.replace(BASE, images=["docker.io/library/alpine:3.20"])
    async with world.board() as board, calendar_of(world, board, base=plain) as calendar:
        world.join("a")
        world.now += 10_000 * HOUR
        await calendar.look()
        world.now -= 10_000 * HOUR
        await calendar.look()
        world.finish()
        world.now += HOUR
        await calendar.look()
        assert len(board.jobs) == 2


def test_a_schedule_keeps_no_more_than_nodes_can_be_told() -> None:
    with pytest.raises(ValueError, match="up to 1100 images"):
        ScheduleSettings(cron="0 * * * *", images=["docker.io/library/alpine:3.*"] * 11, keep=100)
    with pytest.raises(ValueError, match="more than 128 characters"):
        ScheduleSettings(cron="0 * * * *", images=[f"docker.io/library/alpine:{'a' * 128}*"])
