"""Has schedules run when they are due, and remembers it where a restart finds it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Gauge

from shoal.changes import OrderRefused
from shoal.tagorder import newest
from supernode import protocol
from supernode.preheating.archive import write_whole
from supernode.preheating.board import PreheatBoard
from supernode.preheating.jobs import Job, JobState
from supernode.preheating.schedules import ScheduleState, is_due, is_over, next_run, set_back
from supernode.preheating.selection import Selection
from supernode.preheating.settings import ScheduleSettings, split_pattern
from supernode.preheating.views import View, at
from supernode.roster import Node

log = structlog.get_logger()

FILE = "preheat-schedules.json"
"""In the supernode's folder of what outlives a restart."""
_LOOK_SECONDS, _RETURN_SECONDS = 1.0, 5.0
"""Between two looks, and before the first one: nodes need some seconds to return (`supernode.client`), and what was due
while the supernode was down is for all of them."""


class Calendar:
    """The schedules of the configuration, as an async context manager that looks after them."""

    def __init__(
        self,
        schedules: Mapping[str, ScheduleSettings],
        board: PreheatBoard,
        state: Path,
        registry: CollectorRegistry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock`: seconds since the epoch."""
        self._schedules = schedules
        self._board = board
        self._file = state / FILE
        self._clock = clock
        self._states: dict[str, ScheduleState] = {}
        self._running: dict[str, str] = {}
        """The schedule of each preheat that runs for one, by the preheat's id."""
        self._success = Gauge(
            "shoal_supernode_preheat_schedule_last_success_timestamp_seconds",
            "When a run of a schedule has ended last of which every image was on every node.",
            ["schedule"],
            registry=registry,
        )
        board.ended = self._ended
        board.node_joined = self._joined

    async def __aenter__(self) -> Self:
        self._states = await asyncio.to_thread(self._read)
        now = self._clock()
        for name in self._schedules:
            state = self._states.setdefault(name, ScheduleState(now))
            self._success.labels(name).set(state.last_success)
            job = self._board.jobs.get(state.job)
            if job is not None and not job.is_over:
                self._running[job.id] = name
        await self._write()
        self._looking = asyncio.create_task(self._look_on(), name="preheat schedules")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)
        await self._write()

    def shown(self) -> list[View]:
        """All schedules, for people."""
        now = self._clock()
        views: list[View] = []
        for name, settings in self._schedules.items():
            state = self._states[name]
            coming = None if is_over(settings, now) else next_run(settings, max(now, state.last_run))
            views.append(
                {
                    "name": name,
                    "cron": settings.cron,
                    "images": settings.images,
                    "next_run": at(coming),
                    "last_success": at(state.last_success or None),
                    "kept": state.kept or [],
                    "preheat": state.job,
                    "error": state.error,
                    "ends": settings.ends,
                }
            )
        return views

    async def look(self) -> None:
        """Begin what is due, and let go of what schedules keep that are over."""
        now = self._clock()
        for name, settings in self._schedules.items():
            state = self._states[name]
            if set_back(state, now):
                log.warning("schedule.clock_went_back", schedule=name)
            if is_over(settings, now) and state.kept != []:
                await self._keep(name, [])
            if is_due(settings, state, now):
                await self._run(name, settings, state, now)

    # --- runs -------------------------------------------------------------------------------------------------------

    async def _run(self, name: str, settings: ScheduleSettings, state: ScheduleState, now: float) -> None:
        state.last_run = now
        await self._write()  # before anything begins: a restart is not to begin it again
        if name in self._running.values():
            log.warning("schedule.skipped", schedule=name, reason="its last run has not ended")
            return
        try:
            images = await self._images(settings)
            await self._board.refresh(images)
            job = self._board.order(settings.order(images), f"schedule {name}", pin_owner=_owner(name))
        except (OrderRefused, ValueError) as error:
            state.error = str(error)
            log.error("schedule.not_run", schedule=name, error=str(error))
        else:
            state.error, state.job = "", job.id
            self._running[job.id] = name
            log.info("schedule.run", schedule=name, preheat=job.id, images=len(images))
        await self._write()

    async def _images(self, settings: ScheduleSettings) -> list[str]:
        """The references that a schedule means now; raises `OrderRefused`."""
        images: list[str] = []
        for image in settings.images:
            reference, pattern = split_pattern(image)
            if not pattern:
                images.append(str(reference))
                continue
            nodes = Selection.parse(settings.nodes)
            tags = await self._board.tags(reference.registry, reference.repository, pattern, nodes)
            images += [f"{reference.registry}/{reference.repository}:{tag}" for tag in newest(tags, settings.keep)]
        if not images:
            raise OrderRefused("no tag matches")
        return images

    def _ended(self, job: Job) -> None:
        name = self._running.pop(job.id, None)
        if name is None:
            return
        state = self._states[name]
        if job.state is JobState.DONE:
            state.last_success = self._clock()
            self._success.labels(name).set(state.last_success)
        if job.record.order.pin:
            if job.state is not JobState.CANCELLED:
                state.kept = list(job.record.order.images)
            for node in self._board.nodes():
                self._tell(node, name)

    # --- pins -------------------------------------------------------------------------------------------------------

    async def _keep(self, name: str, images: list[str]) -> None:
        self._states[name].kept = images
        await self._write()
        log.info("schedule.over", schedule=name)
        for node in self._board.nodes():
            self._tell(node, name)

    def _joined(self, node: Node) -> None:
        """A node may have pins that were let go while it was away, or of schedules that are no more."""
        if node.preheats:
            for name in self._states:
                self._tell(node, name)

    def _tell(self, node: Node, name: str) -> None:
        kept = self._states[name].kept if name in self._schedules else []
        if not node.preheats or kept is None or name in self._running.values():
            return
        owner = _owner(name)
        self._board.tell(node.peer, protocol.KeepPins(owner, [f"{owner} {image}" for image in kept]))

    # --- time and the disk ------------------------------------------------------------------------------------------

    async def _look_on(self) -> None:
        await asyncio.sleep(_RETURN_SECONDS - _LOOK_SECONDS)
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self.look()
            except Exception:  # a fault of ours in one round
                log.exception("schedule.failed")

    def _read(self) -> dict[str, ScheduleState]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, ScheduleState])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.error("schedule.unreadable", file=str(self._file), error=str(error))
            return {}

    async def _write(self) -> None:
        content = msgspec.json.format(msgspec.json.encode(self._states))
        try:
            await asyncio.to_thread(write_whole, self._file, content)
        except OSError as error:
            log.error("schedule.not_written", file=str(self._file), error=str(error))


def _owner(name: str) -> str:
    return f"schedule:{name}"
