"""Sizes, rates and durations as people write them in a configuration: `256MiB`, `50Mbit/s`, `1.5h`."""

from __future__ import annotations

import math
import re

_NUMBER = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([A-Za-z/]*)\s*")
_BYTES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_BITS = {"bit/s": 1, "kbit/s": 10**3, "mbit/s": 10**6, "gbit/s": 10**9}
_PERCENT = 100
NO_LIMIT = "none"
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str) -> int:
    """Bytes: `100`, `1.5GB`, `256MiB`; raises `ValueError`."""
    number, unit = _split(text)
    if unit.lower() not in _BYTES:
        raise ValueError(f"not a size: {text!r} (allowed: a number and one of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)")
    return round(number * _BYTES[unit.lower()])


def parse_amount(text: str, whole: int) -> int:
    """Bytes: a size, or a share of `whole` bytes such as `80%`; raises `ValueError`."""
    if not text.rstrip().endswith("%"):
        return parse_size(text)
    number, unit = _split(text.rstrip()[:-1])
    if unit or number > _PERCENT:
        raise ValueError(f"not a share: {text!r} (allowed: from 0% to 100%)")
    return round(whole * number / _PERCENT)


def parse_rate(text: str) -> float:
    """Bytes per second: `50Mbit/s`, `10MiB/s`; raises `ValueError`."""
    number, unit = _split(text)
    unit = unit.lower()
    if unit in _BITS:
        return number * _BITS[unit] / 8
    if unit.endswith("/s") and unit[:-2] in _BYTES:
        return number * _BYTES[unit[:-2]]
    raise ValueError(f"not a rate: {text!r} (allowed: a number and Mbit/s, Gbit/s, MB/s, MiB/s ...)")


def parse_limit(text: str) -> float:
    """Bytes per second at most: a rate, or `none` for 0, which is no limit; raises `ValueError`."""
    return 0.0 if text.strip().lower() == NO_LIMIT else parse_rate(text)


def parse_duration(text: str) -> float:
    """Seconds: `500ms`, `30s`, `5m`, `1.5h`, `7d`; raises `ValueError`."""
    number, unit = _split(text)
    if unit not in _SECONDS:
        raise ValueError(f"not a duration: {text!r} (allowed: a number and one of ms, s, m, h, d)")
    return number * _SECONDS[unit]


def format_size(size: float) -> str:
    """`size` bytes with three digits: `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5:
            return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def format_rate(rate: float) -> str:
    """`rate` bytes per second with three digits, `12.3 MB/s`; `none` for the limit 0."""
    return f"{format_size(rate)}/s" if rate else NO_LIMIT


def format_share(share: float) -> str:
    """A part of 1 in percent, rounded down: only what is whole is called 100%."""
    return f"{math.floor(_PERCENT * share)}%"


def format_age(seconds: float) -> str:
    """A time that has passed, in its largest unit: `3 min`, `2 h`, `5 d`."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _split(text: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"not a number with a unit: {text!r}")
    return float(match[1]), match[2]
