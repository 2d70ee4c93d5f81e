"""Limits of what a node sends and fetches: which there are, and what the configuration says of them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from shoal.fields import LIVE, Unit
from shoal.units import format_rate, parse_limit

LIMITS_PATH = "/v1/limits"
"""Where limits are asked for and ordered, at the operations port of a node and of a supernode."""
DEFAULT = "default"
"""In place of a rate: what would hold without an order."""

LEAST_LIMIT, MOST_LIMIT = 131_000, 1e15
"""Bytes per second. With less a chunk takes so long that those who wait for one think that nothing comes; of more no
message tells (`supernode.protocol`)."""


class Traffic(StrEnum):
    """What can be limited."""

    UPLOAD = "upload"
    """What goes to other nodes."""
    DOWNLOAD = "download"
    """What comes from other nodes and from origins."""
    ORIGIN = "origin"
    """What comes from origins."""
    PREHEAT = "preheat"
    """What comes for preheating, from wherever."""


_LIMIT = Unit(
    parse_limit,
    "a rate such as 50Mbit/s or 10MiB/s, or none",
    (("Gbit/s", 1.25e8), ("Mbit/s", 1.25e5), ("kbit/s", 125)),
)
Limit = Annotated[float | None, _LIMIT, LIVE]
"""Bytes per second; 0: no limit; None: nothing is said of it."""


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a node sends and fetches at most, in bytes per second. What its own clients get from its store is not
    limited."""

    upload: Limit = None
    """What goes to other nodes."""

    download: Limit = None
    """What comes from other nodes and from origins together."""

    origin: Limit = None
    """What comes from origins, over all of them."""

    preheat: Limit = None
    """What comes for preheating, from other nodes and from origins."""

    def __post_init__(self) -> None:
        for traffic in Traffic:
            check_limit(traffic, self.of(traffic))

    def of(self, traffic: Traffic) -> float | None:
        """The limit of one kind of traffic."""
        rate: float | None = getattr(self, traffic)
        return rate


def check_limit(traffic: str, rate: float | None) -> None:
    """Raises `ValueError` for a limit under which nothing would work any more."""
    if rate is not None and rate != 0 and not rate >= LEAST_LIMIT:
        least = format_rate(LEAST_LIMIT)
        raise ValueError(f"`{traffic}` {format_rate(rate)} is too little (allowed: none, or {least} and more)")
    if rate is not None and rate > MOST_LIMIT:
        raise ValueError(f"`{traffic}` {format_rate(rate)} is more than any link gives (allowed: none for no limit)")


class LimitOrder(msgspec.Struct):
    """An order that something is limited."""

    traffic: Traffic
    rate: str
    """As people write it: `200MB/s`, `none`, or `default` for what would hold without an order."""

    @property
    def bytes_per_second(self) -> float | None:
        """0 for no limit, None for the default; raises `ValueError`."""
        if self.rate.strip().lower() == DEFAULT:
            return None
        try:
            rate = parse_limit(self.rate)
        except ValueError:
            raise ValueError(f"{self.rate!r} is no limit (allowed: {_LIMIT.meaning} or {DEFAULT})") from None
        check_limit(self.traffic, rate)
        return rate


NO_LIMITS = LimitSettings()
