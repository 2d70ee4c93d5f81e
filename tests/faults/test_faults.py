"""The suite's short form: each fault once or more. What fails is replayed by `make faults FAULT=name SEED=number`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.scenarios import SCENARIOS
from tests.faults.suite import Driver, Scenario, lacking, plan
from tests.world.programs import lack

_FIRST_SEED = 1
_RUNS = list(plan(_FIRST_SEED, list(SCENARIOS), is_short=True))


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    with Driver() as driver:
        yield driver


@pytest.mark.parametrize(("scenario", "seed"), _RUNS, ids=[f"{scenario.name}-{seed}" for scenario, seed in _RUNS])
def test_fault(scenario: Scenario, seed: int, driver: Driver) -> None:
    missing = lacking(scenario)
    if missing:
        lack(f"for want of {', '.join(missing)}")
    result = driver.run(scenario, seed)
    print(f"{result}")
    assert not result.complaints, "\n".join(result.complaints)


def test_all_processes_end_well(driver: Driver) -> None:
    assert not driver.close_world()
