"""What preheating costs those who pull, in simulated time."""

from __future__ import annotations

from bench.preheating import beside

LINK = 6_250_000.0


def test_a_pull_beside_a_preheat_takes_little_longer_than_alone() -> None:
    assert beside(8, 1, LINK, LINK, 0) <= 1.15
