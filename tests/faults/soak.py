"""Ten minutes of what otherwise takes days: pulls, kills, restarts, evictions, with processes that must not grow."""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from bench.processes import resident_bytes
from tests.faults.clients import Image
from tests.faults.run import Run
from tests.faults.suite import fault
from tests.faults.world import MIB, Member, Shape

SECONDS = float(os.environ.get("SHOAL_SOAK_SECONDS", "600"))
_NODES = 6
_KEPT_IMAGES = 4
_STORE_BYTES = "64MiB"
_MEMORY_SLACK, _COUNT_SLACK = 24 * MIB, 16
"""By which the last third may be above the first: allocators and pools have a grain."""
_SAMPLE_SECONDS = 1.0

Sample = tuple[int, int, int]
"""Resident bytes, descriptors, threads."""


@fault(
    Shape(
        nodes=_NODES,
        origin_rate=16 * MIB,
        settings=(("SHOAL_PEER__CACHE__HIGH", _STORE_BYTES), ("SHOAL_PEER__CACHE__LOW", "40MiB")),
    ),
    runs=1,
    short_runs=0,
)
def soak(run: Run) -> None:
    """Every part comes out as large as it was."""
    began, images = time.monotonic(), list[Image]()
    until = began + SECONDS
    samples: dict[str, list[Sample]] = defaultdict(list)
    sampled_at, rounds, pulls = 0.0, 0, 0
    while time.monotonic() < until:
        if len(images) < _KEPT_IMAGES or run.rng.random() < 0.5:
            images = [*images, run.push(*_sizes(run))][-_KEPT_IMAGES:]
        run.image = run.rng.choice(images)
        started = run.pull(*run.rng.sample(run.world.nodes, run.rng.randint(1, _NODES)))
        pulls += len(started)
        if run.rng.random() < 0.3:
            # two nodes live from the beginning to the end, the supernode for the last two thirds
            mortal = run.world.members[:-2]
            victim = run.rng.choice([*mortal, run.world.tracker] if time.monotonic() < began + SECONDS / 3 else mortal)
            run.wait_for_progress(run.rng.uniform(0.0, 0.9), *started)
            victim.kill()
            if victim in run.world.members:
                run.harmed(victim)
            run.lasts(0.0, 0.5)
            victim.start()
            samples[victim.name].clear()
        run.wait_for(lambda: all(pull.ended_at for pull in started), 60.0)  # noqa: B023
        rounds += 1
        if time.monotonic() - sampled_at > _SAMPLE_SECONDS:
            sampled_at = time.monotonic()
            for member in run.world.processes:
                samples[member.name].append(_sample(member))
    run.note(f"{rounds} rounds, {pulls} pulls")
    for name, of_member in samples.items():
        for complaint in _growth(name, of_member):
            run.expect(False, complaint)
    run.image = images[-1]


def _sizes(run: Run) -> Iterator[int]:
    for _ in range(run.rng.randint(1, 4)):
        yield run.rng.randint(100_000, 4 * MIB)


def _sample(member: Member) -> Sample:
    process = Path(f"/proc/{member.pid}")
    return resident_bytes(member.pid), len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))


def _growth(name: str, samples: list[Sample]) -> Iterator[str]:
    """What has grown from the first third to the last, of a process that lived for long."""
    third = len(samples) // 3
    if third < 10:
        return
    slacks = ("memory", _MEMORY_SLACK), ("descriptors", _COUNT_SLACK), ("threads", _COUNT_SLACK)
    for place, (what, slack) in enumerate(slacks):
        first, last = (statistics.median(each[place] for each in part) for part in (samples[:third], samples[-third:]))
        if last > first + slack:
            yield f"{what} of {name} grew from {first:.0f} to {last:.0f}"
