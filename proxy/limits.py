"""How much upstreams let themselves be asked: their `RateLimit-*` headers, and silence after a 429."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from peer.origin import OriginDenied, OriginNotFound
from proxy.metrics import ProxyMetrics
from proxy.retry import Limited
from shoal.reference import Registry

DEFAULT_QUIET_SECONDS = 30.0
"""How long an upstream is left alone that answered 429 and did not say for how long."""

MAX_QUIET_SECONDS = 3600.0
_MAX_REGISTRIES = 256
"""Registries of which is kept what they said: those that `any_upstream` adds are named by clients."""

_NUMBER = re.compile(r"\s*([0-9]{1,12})")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What an upstream said last: requests allowed in its window, and how many of them are left."""

    limit: int | None
    remaining: int | None


class LimitBoard:
    """What upstreams last said, of their limits above all, for metrics and people; a 429 is told to the cluster."""

    def __init__(self, metrics: ProxyMetrics, tell: Callable[[Registry, float], None] | None) -> None:
        """`tell` the cluster that an upstream is to be left alone for so many seconds."""
        self._metrics = metrics
        self._tell = tell
        self.limits: dict[Registry, RateLimit] = {}
        self.quiet_until: dict[Registry, float] = {}
        """Upstreams that are left alone, by a monotonic clock."""

    def limit(self, registry: Registry, limit: RateLimit) -> None:
        """What an answer said."""
        if registry in self.limits or len(self.limits) < _MAX_REGISTRIES:
            self.limits[registry] = limit
            if limit.limit is not None and self._metrics.names(registry):
                self._metrics.rate_limit.labels(registry).set(limit.limit)
            if limit.remaining is not None and self._metrics.names(registry):
                self._metrics.rate_limit_remaining.labels(registry).set(limit.remaining)

    def asked(self, registry: Registry, error: Exception | None) -> None:
        """A request to an upstream has been answered well, or has failed."""
        name = self._metrics.upstream(registry)
        self._metrics.upstream_requests.labels(name, _outcome(error)).inc()
        if error is None:
            self._metrics.answered_at.labels(name).set_to_current_time()

    def received(self, registry: Registry) -> Callable[[int], None]:
        """Whom to tell how many bytes of a body have come from an upstream."""
        return self._metrics.upstream_bytes.labels(self._metrics.upstream(registry)).inc

    def last(self) -> dict[str, tuple[int | None, int | None]]:
        """Of each registry that said so: requests that it allows in its window, and how many are left."""
        return {registry: (limit.limit, limit.remaining) for registry, limit in self.limits.items()}

    def is_quiet(self, registry: Registry) -> bool:
        """Whether an upstream is left alone now."""
        return self.quiet_until.get(registry, 0.0) > time.monotonic()

    def quiet(self, registry: Registry, seconds: float) -> None:
        """The upstream answered 429: it is left alone for so long."""
        self._metrics.limited.labels(self._metrics.upstream(registry)).inc()
        self.quieten(registry, seconds)
        if self._tell is not None:
            self._tell(registry, seconds)

    def quieten(self, registry: Registry, seconds: float) -> None:
        """An upstream is left alone, by its own word or that of the cluster."""
        if registry in self.quiet_until or len(self.quiet_until) < _MAX_REGISTRIES:
            until = time.monotonic() + min(seconds, MAX_QUIET_SECONDS)
            self.quiet_until[registry] = max(until, self.quiet_until.get(registry, 0.0))


def parse_rate_limit(headers: Mapping[str, str]) -> RateLimit | None:
    """`RateLimit-Limit` and `RateLimit-Remaining` as Docker Hub has them (`100;w=21600`); None where there are none."""
    limit = _number(headers.get("RateLimit-Limit"))
    remaining = _number(headers.get("RateLimit-Remaining"))
    return None if limit is remaining is None else RateLimit(limit, remaining)


def quiet_seconds(retry_after: float | None) -> float:
    """For how long an upstream is left alone after a 429 whose `Retry-After` is this."""
    return DEFAULT_QUIET_SECONDS if retry_after is None else min(max(retry_after, 1.0), MAX_QUIET_SECONDS)


def _outcome(error: Exception | None) -> str:
    match error:
        case None:
            return "answered"
        case Limited():
            return "limited"
        case OriginDenied():
            return "denied"
        case OriginNotFound():
            return "missing"
        case _:
            return "unavailable"


def _number(text: str | None) -> int | None:
    match = _NUMBER.match(text) if text is not None else None
    return int(match[1]) if match is not None else None
