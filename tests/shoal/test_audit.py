"""The audit log."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

import shoal.audit
from shoal.audit import Audit

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_line_for_each_record_in_order(path: Path) -> None:
    async with Audit(path, lambda: NOW) as audit:
        for number in range(1000):
            audit.record(client="10.0.0.1", bytes=number, reference=None, reason="")
    found = lines(path)
    assert found[0] == {"time": "2026-06-01T12:00:00.000+00:00", "client": "10.0.0.1", "bytes": 0}
    assert [line["bytes"] for line in found] == list(range(1000))
    assert path.stat().st_mode & 0o027 == 0


async def test_what_is_there_stays(path: Path) -> None:
    for number in range(2):
        async with Audit(path) as audit:
            audit.record(bytes=number)
    assert [line["bytes"] for line in lines(path)] == [0, 1]


async def test_a_line_break_in_a_field_makes_no_line(path: Path) -> None:
    async with Audit(path) as audit:
        audit.record(path="/v2/\n{}")
    assert len(lines(path)) == 1


@pytest.mark.parametrize("gone", [False, True])
async def test_a_rotated_file_is_left(path: Path, gone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Audit(path) as audit:
        audit.record(bytes=1)
        await audit.flush()
        kept = path.with_suffix(".1")
        path.rename(kept)
        if gone:
            kept.unlink()
        audit.record(bytes=2)
    assert [line["bytes"] for line in lines(path)] == [2]
    if not gone:
        assert [line["bytes"] for line in lines(kept)] == [1]


async def test_a_disk_that_takes_nothing_loses_the_newest_lines_and_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shoal.audit, "_MAX_WAITING", 200)
    with capture_logs() as logs:
        async with Audit(path) as audit:
            path.unlink()
            path.mkdir()
            for number in range(100):
                audit.record(bytes=number)
                await audit.flush()
            path.rmdir()
            await audit.flush()
            audit.record(bytes=100)
    numbers = [line["bytes"] for line in lines(path)]
    assert numbers[:2] == [0, 1]
    assert numbers[-1] == 100
    assert len(numbers) < 10
    assert [entry["event"] for entry in logs] == ["audit.failing", "audit.recovered"]
    assert logs[1]["lost"] == 101 - len(numbers)


async def test_a_file_that_cannot_be_opened_stops_the_start(path: Path) -> None:
    path.mkdir()
    with pytest.raises(OSError, match=r"audit\.log"):
        await Audit(path).__aenter__()
