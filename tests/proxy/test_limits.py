from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from prometheus_client import CollectorRegistry

from proxy.limits import (
    _MAX_REGISTRIES,
    DEFAULT_QUIET_SECONDS,
    MAX_QUIET_SECONDS,
    LimitBoard,
    RateLimit,
    parse_rate_limit,
    quiet_seconds,
)
from proxy.metrics import ProxyMetrics
from shoal.reference import Registry

HUB = Registry("docker.io")


@pytest.mark.parametrize(
    ("headers", "limit"),
    [
        ({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"}, RateLimit(100, 76)),
        ({"RateLimit-Limit": "10, 10;w=1, 50;w=60", "RateLimit-Remaining": " 9"}, RateLimit(10, 9)),
        ({"RateLimit-Remaining": "0"}, RateLimit(None, 0)),
        ({"RateLimit-Limit": "5000"}, RateLimit(5000, None)),
        ({"RateLimit-Limit": "many", "RateLimit-Remaining": "-3"}, None),
        ({"RateLimit-Limit": ""}, None),
        ({"X-Other": "1"}, None),
        ({}, None),
    ],
)
def test_what_registries_say_of_their_limits(headers: dict[str, str], limit: RateLimit | None) -> None:
    assert parse_rate_limit(CIMultiDict(headers)) == limit


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_header_is_survived(limit: str, remaining: str) -> None:
    parse_rate_limit({"RateLimit-Limit": limit, "RateLimit-Remaining": remaining})


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        (None, DEFAULT_QUIET_SECONDS),
        (0.0, 1.0),
        (7.0, 7.0),
        (1e9, MAX_QUIET_SECONDS),
        (float("inf"), MAX_QUIET_SECONDS),
    ],
)
def test_silence_after_a_429_is_bounded(after: float | None, seconds: float) -> None:
    assert quiet_seconds(after) == seconds


class Board:
    def __init__(self) -> None:
        self.samples = CollectorRegistry()
        self.told: list[tuple[Registry, float]] = []
        self.board = LimitBoard(
            ProxyMetrics(self.samples, [HUB]), lambda registry, seconds: self.told.append((registry, seconds))
        )

    def sample(self, name: str, registry: str = HUB) -> float | None:
        return self.samples.get_sample_value(name, {"registry": registry})


def test_limits_are_metrics() -> None:
    board = Board()
    board.board.limit(HUB, RateLimit(100, 76))
    board.board.limit(HUB, RateLimit(None, 75))
    assert board.sample("shoal_upstream_rate_limit_requests") == 100
    assert board.sample("shoal_upstream_rate_limit_remaining_requests") == 75
    assert board.board.limits == {HUB: RateLimit(None, 75)}


def test_a_429_is_counted_and_the_cluster_is_told() -> None:
    board = Board()
    board.board.quiet(HUB, 6.0)
    assert board.sample("shoal_upstream_limited_total") == 1
    assert board.told == [(HUB, 6.0)]
    LimitBoard(ProxyMetrics(CollectorRegistry()), None).quiet(HUB, 6.0)


def test_how_long_an_upstream_is_left_alone_is_known_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.limits.time.monotonic", lambda: 1000.0)
    board = Board()
    board.board.quiet(HUB, 30.0)
    board.board.quieten(HUB, 6.0)
    assert board.board.quiet_until == {HUB: 1030.0}
    board.board.quieten(HUB, float("inf"))
    assert board.board.quiet_until == {HUB: 1000.0 + MAX_QUIET_SECONDS}


def test_registries_that_clients_name_are_one_in_the_metrics() -> None:
    board = Board()
    names = [Registry(f"r{number}.example") for number in range(_MAX_REGISTRIES + 10)]
    for name in names:
        board.board.limit(name, RateLimit(1, 1))
        board.board.quiet(name, 1.0)
        board.board.asked(name, None)
    assert len(board.board.limits) == _MAX_REGISTRIES
    assert board.sample("shoal_upstream_limited_total", Registry("other")) == len(names)
    assert board.sample("shoal_upstream_last_success_timestamp_seconds", Registry("other"))
    assert board.sample("shoal_upstream_rate_limit_requests", Registry("other")) is None
    assert all(board.sample("shoal_upstream_limited_total", name) is None for name in names)
    assert len(board.told) == len(names)
    assert len(board.board.quiet_until) == _MAX_REGISTRIES
