"""The scenarios by name, and the driver of their runs: worlds are kept from run to run while they stay clean."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.faults.leftovers import Watch
from tests.faults.run import Result, Run
from tests.faults.world import Shape, World

MIB = 1 << 20
_NETWORK_PROGRAMS = ("docker-registry", "ip", "tc", "bridge")
_WARM_UP = (64 << 10,)
_CLIENTS = 32
_RUNS_OF_A_WORLD = 50


@dataclass(frozen=True)
class Scenario:
    """A fault: how it is driven, in which world, and how often in the full and in the short form."""

    name: str
    drive: Callable[[Run], None]
    shape: Shape
    runs: int
    short_runs: int


def lacking(scenario: Scenario) -> list[str]:
    """What this machine has not that a fault needs."""
    wanted = _NETWORK_PROGRAMS if scenario.shape.is_network else ()
    missing = [name for name in wanted if shutil.which(name) is None]
    return missing + (["root"] if scenario.shape.needs_root and os.geteuid() != 0 else [])


SCENARIOS: dict[str, Scenario] = {}


def fault(
    shape: Shape, runs: int = 3, short_runs: int = 1, name: str = ""
) -> Callable[[Callable[[Run], None]], Callable[[Run], None]]:
    """Enter a function as a scenario under its own name."""

    def enter(drive: Callable[[Run], None]) -> Callable[[Run], None]:
        named = name or drive.__name__
        assert named not in SCENARIOS
        SCENARIOS[named] = Scenario(named, drive, shape, runs, short_runs)
        return drive

    return enter


@dataclass
class _Kept:
    world: World
    watch: Watch
    stack: ExitStack
    runs: int = 0


class Driver:
    """Runs scenarios, as a context manager. Keeps one world at a time."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_CLIENTS)
        self._kept: _Kept | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_world()
        self._pool.shutdown()

    def run(self, scenario: Scenario, seed: int) -> Result:
        """Drive one fault once, and judge it."""
        began = time.monotonic()
        kept = self._world(scenario.shape)
        run = Run(kept.world, scenario.name, seed, self._pool)
        kept.watch.begin()
        try:
            scenario.drive(run)
            result = run.judge(kept.watch)
        except Exception:
            result = run.result
            result.complaints.append(traceback.format_exc())
        kept.runs += 1
        if result.complaints or run.leaves_doubt or kept.runs == _RUNS_OF_A_WORLD:
            ended = self.close_world()
            result.leftovers += len(ended)
            result.complaints += ended
        else:
            kept.world.forget()
        result.seconds = time.monotonic() - began
        return result

    def close_world(self) -> list[str]:
        """End the world that is kept; what is wrong with how it ends."""
        kept, self._kept = self._kept, None
        if kept is None:
            return []
        try:
            return list(kept.world.endings()) + list(kept.watch.wrong_files()) + list(kept.watch.tracebacks())
        finally:
            kept.stack.close()

    def _world(self, shape: Shape) -> _Kept:
        """The world that is kept where it has this shape, else a new one whose parts know each other."""
        if self._kept is not None and self._kept.world.shape == shape:
            return self._kept
        ended = self.close_world()
        assert not ended, ended
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="shoal-faults-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            world = stack.enter_context(World(shape, folder))
            watch = Watch(world)
            run = Run(world, "warm-up", 0, self._pool)
            run.push(*_WARM_UP)
            run.pull()
            run.wait()
            self._kept = _Kept(world, watch, stack.pop_all())
        return self._kept


@dataclass
class Totals:
    """What all runs of a fault, or of all faults, come to."""

    runs: int = 0
    failed: int = 0
    pulls: int = 0
    right_images: int = 0
    clean_errors: int = 0
    wrong_bytes: int = 0
    leftovers: int = 0
    longest_silence_s: float = 0.0
    longest_recovery_s: float = 0.0
    failed_seeds: list[int] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Count a run."""
        self.runs += 1
        if result.complaints:
            self.failed += 1
            self.failed_seeds.append(result.seed)
        self.pulls += result.pulls
        self.right_images += result.right_images
        self.clean_errors += result.clean_errors
        self.wrong_bytes += result.wrong_bytes
        self.leftovers += result.leftovers
        self.longest_silence_s = max(self.longest_silence_s, round(result.silence, 2))
        self.longest_recovery_s = max(self.longest_recovery_s, round(result.recovery, 2))


def plan(seed: int, faults: list[str], runs: int = 0, *, is_short: bool = False) -> Iterator[tuple[Scenario, int]]:
    """Which runs there are, those of one shape together. `runs`: of each fault; 0: as many as it says."""
    rng = random.Random(seed)
    by_shape: dict[Shape, list[tuple[Scenario, int]]] = {}
    for name in faults:
        scenario = SCENARIOS[name]
        count = runs or (scenario.short_runs if is_short else scenario.runs)
        by_shape.setdefault(scenario.shape, []).extend((scenario, seed + place) for place in range(count))
    for entries in by_shape.values():
        rng.shuffle(entries)
        yield from entries
