"""Which limit holds, by whose word, and what may be ordered."""

from __future__ import annotations

from pathlib import Path

import pytest

from peer.settings import PeerSettings
from shoal.limitbook import LimitBook, Word
from shoal.limits import NO_LIMITS, LimitOrder, LimitSettings, Traffic
from shoal.settings import SettingsError, load
from shoal.toml import dump

MB = 1e6
UPLOAD = Traffic.UPLOAD


def limits_of(configured: LimitSettings) -> tuple[LimitBook, dict[Traffic, float]]:
    """And what was applied."""
    applied: dict[Traffic, float] = {}
    return LimitBook(configured, applied.__setitem__), applied


def test_an_order_goes_before_the_configuration_and_that_before_the_cluster() -> None:
    limits, applied = limits_of(LimitSettings(upload=2 * MB))
    assert applied == {UPLOAD: 2 * MB}
    limits.told(LimitSettings(upload=1 * MB, origin=1 * MB))
    assert applied == {UPLOAD: 2 * MB, Traffic.ORIGIN: 1 * MB}
    assert limits.holding(Traffic.ORIGIN) == (1 * MB, Word.CLUSTER)
    limits.order(UPLOAD, 3 * MB)
    assert limits.holding(UPLOAD) == (3 * MB, Word.ORDER)
    limits.order(UPLOAD, None)
    assert limits.holding(UPLOAD) == (2 * MB, Word.CONFIGURATION)
    assert applied[UPLOAD] == 2 * MB


def test_no_limit_is_a_word_too_and_silence_is_none() -> None:
    limits, applied = limits_of(LimitSettings(upload=0.0))
    limits.told(LimitSettings(upload=1 * MB, download=1 * MB))
    assert applied == {Traffic.DOWNLOAD: 1 * MB}
    assert limits.holding(UPLOAD) == (0.0, Word.CONFIGURATION)
    limits.told(NO_LIMITS)
    assert limits.holding(Traffic.DOWNLOAD) == (0.0, Word.NOBODY)
    assert applied[Traffic.DOWNLOAD] == 0.0


def test_orders_end_when_the_configuration_is_read_again() -> None:
    limits, applied = limits_of(NO_LIMITS)
    limits.order(UPLOAD, 1 * MB)
    limits.configure(LimitSettings(download=2 * MB))
    assert applied == {UPLOAD: 0.0, Traffic.DOWNLOAD: 2 * MB}


def test_what_is_applied_is_told_once() -> None:
    told: list[tuple[Traffic, float]] = []
    limits = LimitBook(NO_LIMITS, lambda traffic, rate: told.append((traffic, rate)))
    limits.order(UPLOAD, 1 * MB)
    limits.order(UPLOAD, 1 * MB)
    limits.told(LimitSettings(upload=2 * MB))
    assert told == [(UPLOAD, 1 * MB)]


def test_what_nobody_has_said_is_told_to_nobody() -> None:
    limits, _ = limits_of(LimitSettings(upload=0.0))
    limits.order(Traffic.ORIGIN, 1 * MB)
    assert limits.said == LimitSettings(upload=0.0, origin=1 * MB)


@pytest.mark.parametrize(
    ("text", "rate"), [("200MB/s", 200 * MB), ("none", 0.0), (" Default ", None), ("8Mbit/s", 1 * MB)]
)
def test_orders_are_written_as_people_write(text: str, rate: float | None) -> None:
    assert LimitOrder(UPLOAD, text).bytes_per_second == rate


@pytest.mark.parametrize("text", ["200", "much", "1kB/s", "-1MB/s", ""])
def test_orders_that_are_no_rate_or_too_little_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="allowed"):
        _ = LimitOrder(UPLOAD, text).bytes_per_second


def test_limits_in_a_file_are_read_and_written_as_people_write(tmp_path: Path) -> None:
    file = tmp_path / "shoal.toml"
    file.write_text('[limits]\nupload = "200MB/s"\ndownload = "none"\npreheat = 1e6\n')
    read = load(PeerSettings, file, {})
    assert read.limits == LimitSettings(upload=200 * MB, download=0.0, preheat=1 * MB)
    file.write_text(dump(read))
    assert "upload" in file.read_text()
    assert "origin" not in file.read_text().split("[limits]")[1].split("[")[0]
    assert load(PeerSettings, file, {}) == read


@pytest.mark.parametrize(
    ("value", "words"), [('"quick"', ["limits.upload", "50Mbit/s", "none"]), ('"1kB/s"', ["limits", "upload", "131"])]
)
def test_limits_in_a_file_that_cannot_be_are_refused(tmp_path: Path, value: str, words: list[str]) -> None:
    file = tmp_path / "shoal.toml"
    file.write_text(f"[limits]\nupload = {value}\n")
    with pytest.raises(SettingsError) as error:
        load(PeerSettings, file, {})
    for word in [str(file), *words]:
        assert word in str(error.value)
