from __future__ import annotations

import pytest

from bench.simulation import Simulation

MB = 1_000_000


@pytest.mark.parametrize("count", [1, 2, 16])
def test_all_get_the_blob_and_the_origin_sends_it_once(count: int) -> None:
    outcome = Simulation(10 * MB, [10.0 * MB] * count, 10.0 * MB, seed=1).run()
    assert outcome.ratio >= 1.0
    assert outcome.egress == 1.0


def test_readers_of_many_layers_do_not_make_the_origin_send_twice() -> None:
    """A client reads three layers at a time: of the second and third nothing leaves the origin until it says so."""
    outcome = Simulation(100 * MB, [6.25 * MB] * 48, 6.25 * MB, seed=0, layers=5).run()
    assert outcome.egress <= 1.02
    assert outcome.ratio <= 1.2


def test_the_same_seed_gives_the_same_run() -> None:
    runs = [Simulation(5 * MB, [10.0 * MB] * 8, 10.0 * MB, seed=3).run() for _ in range(2)]
    assert runs[0] == runs[1]


def test_peers_that_vanish_do_not_stop_the_others() -> None:
    outcome = Simulation(10 * MB, [10.0 * MB] * 16, 10.0 * MB, seed=1, leaving=0.25).run()
    assert 1.0 <= outcome.egress < 1.5


def test_one_peer_alone_is_as_fast_as_its_link() -> None:
    assert Simulation(50 * MB, [10.0 * MB], 10.0 * MB, seed=1).run().ratio < 1.1


def test_sixteen_peers_take_about_as_long_as_on_the_measured_network() -> None:
    """Namespaces of 50 Mbit/s, 100 MB: 1.16 to 1.19 of the bound (`python -m bench swarm`)."""
    assert 1.05 < Simulation(100 * MB, [6.25 * MB] * 16, 6.25 * MB, seed=1).run().ratio < 1.25


@pytest.mark.parametrize("rates", [[10.0 * MB] * 120, [5.0 * MB] * 30 + [10.0 * MB] * 90])
def test_swarms_above_a_full_mesh_lose_no_peer(rates: list[float]) -> None:
    outcome = Simulation(5 * MB, rates, 10.0 * MB, seed=1, leaving=0.1).run()
    assert outcome.median <= outcome.makespan
