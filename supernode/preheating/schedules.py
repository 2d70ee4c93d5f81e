"""Which schedules are due, and what each of them keeps. No I/O; times are in seconds since the epoch, days in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from cronsim import CronSim

from supernode.preheating.settings import ScheduleSettings

_CLOCK_SECONDS = 60.0
"""By which a clock may go back without a run being done twice."""


class ScheduleState(msgspec.Struct):
    """What outlives a restart."""

    last_run: float
    """When it has begun last, or when it was first seen: what was due before that is not made up for."""
    last_success: float = 0.0
    """When a run has ended last of which every image was on every node."""
    kept: list[str] | None = None
    """The images that it keeps pinned; None where nobody knows: before its first run, or since the state was lost."""
    job: str = ""
    """The preheat of its last run."""
    error: str = ""
    """Why its last run could not begin."""


def next_run(settings: ScheduleSettings, after: float) -> float | None:
    """When a schedule runs for the first time after a moment; None where it never does."""
    found = next(CronSim(settings.cron, datetime.fromtimestamp(after, UTC)), None)
    if found is None or (settings.last_day is not None and found.date() > settings.last_day):
        return None
    return found.timestamp()


def is_due(settings: ScheduleSettings, state: ScheduleState, now: float) -> bool:
    """Whether a run should have begun by now. However many were missed, one is made up for."""
    due_at = next_run(settings, state.last_run)
    return due_at is not None and due_at <= now and not is_over(settings, now)


def set_back(state: ScheduleState, now: float) -> bool:
    """Whether a run is said to have begun in the future, as after a clock that was wrong; now stands for it then."""
    is_wrong = state.last_run - now > _CLOCK_SECONDS
    if is_wrong:
        state.last_run = now
    return is_wrong


def is_over(settings: ScheduleSettings, now: float) -> bool:
    """Whether a schedule has come to its end."""
    return settings.last_day is not None and datetime.fromtimestamp(now, UTC).date() > settings.last_day
