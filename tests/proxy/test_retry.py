from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.origin import OriginUnavailable
from proxy.retry import MAX_RETRY_AFTER, Transient, parse_retry_after, persist
from proxy.settings import UpstreamSettings

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Failing:
    """Fails with the given errors, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.pauses: list[float] = []

    async def work(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def persist(self, retries: int = 3) -> str:
        return await persist(self.work, UpstreamSettings(retries=retries), self.sleep)


async def test_it_tries_again_after_a_passing_failure() -> None:
    failing = Failing(Transient("a"), Transient("b"))
    assert await failing.persist() == "done"
    assert len(failing.pauses) == 2
    assert all(0 <= pause <= 5 for pause in failing.pauses)


async def test_it_gives_up_after_the_configured_number() -> None:
    failing = Failing(*(Transient(str(n)) for n in range(9)))
    with pytest.raises(Transient, match="2"):
        await failing.persist(retries=2)


async def test_a_lasting_failure_is_not_tried_again() -> None:
    failing = Failing(OriginUnavailable("no"))
    with pytest.raises(OriginUnavailable):
        await failing.persist()
    assert failing.pauses == []


async def test_retry_after_is_honoured_and_bounded() -> None:
    failing = Failing(Transient("busy", 2.0))
    await failing.persist()
    assert failing.pauses == [2.0]
    failing = Failing(Transient("busy", MAX_RETRY_AFTER + 1))
    with pytest.raises(Transient):
        await failing.persist()
    assert failing.pauses == []


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        (" 120 ", 120.0),
        ("Fri, 02 Jan 2026 03:04:35 GMT", 30.0),
        ("Fri, 02 Jan 2026 03:00:00 GMT", 0.0),
    ],
)
def test_retry_after_headers(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, NOW) == seconds


@given(st.text(max_size=60))
def test_any_retry_after_is_survived(header: str) -> None:
    seconds = parse_retry_after(header, NOW)
    assert seconds is None or seconds >= 0
