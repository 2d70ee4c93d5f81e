from __future__ import annotations

import pytest

from bench.simulation import Simulation

MB = 1_000_000


@pytest.mark.parametrize("count", [1, 2, 16])
def test_all_get_the_blob_and_the_origin_sends_it_once(count: int) -> None:
    outcome = Simulation(10 * MB, [10.0 * MB] * count, 10.0 * MB, seed=1).run()
    assert outcome.ratio >= 1.0
    assert outcome.egress == 1.0


def test_the_same_seed_gives_the_same_run() -> None:
    runs = [Simulation(5 * MB, [10.0 * MB] * 8, 10.0 * MB, seed=3).run() for _ in range(2)]
    assert runs[0] == runs[1]


def test_peers_that_vanish_do_not_stop_the_others() -> None:
    outcome = Simulation(10 * MB, [10.0 * MB] * 16, 10.0 * MB, seed=1, leaving=0.25).run()
    assert 1.0 <= outcome.egress < 1.5


def test_one_peer_alone_is_as_fast_as_its_link() -> None:
    assert Simulation(50 * MB, [10.0 * MB], 10.0 * MB, seed=1).run().ratio < 1.1
