"""When a request to an upstream is made again, and how long before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import structlog
import tenacity

from peer.origin import OriginUnavailable
from proxy.settings import UpstreamSettings

log = structlog.get_logger()

MAX_RETRY_AFTER = 10.0
"""Seconds that a client is let wait because an upstream said `Retry-After`; beyond, the upstream counts as gone."""

_BACKOFF = tenacity.wait_random_exponential(multiplier=0.2, max=5.0)

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


class Transient(OriginUnavailable):
    """A failure that another try may mend; `after` is what the upstream asked to wait, in seconds."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


def parse_retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds from `now` on that a `Retry-After` header names (a number or a date); None where it names none."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


async def persist(work: Callable[[], Awaitable[T]], upstream: UpstreamSettings, sleep: Sleep = asyncio.sleep) -> T:
    """The result of `work`, called again after each `Transient` within the upstream's bounds; raises the last error."""
    retrying = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(upstream.retries + 1) | tenacity.stop_after_delay(upstream.read_timeout),
        wait=_pause,
        retry=tenacity.retry_if_exception(_is_worth_it),
        sleep=sleep,
        before_sleep=_log_failure,
        reraise=True,
    )
    return await retrying(work)


def _is_worth_it(error: BaseException) -> bool:
    return isinstance(error, Transient) and (error.after is None or error.after <= MAX_RETRY_AFTER)


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    backoff = float(_BACKOFF(state))
    return max(error.after, backoff) if isinstance(error, Transient) and error.after is not None else backoff


def _log_failure(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    log.warning("origin.retry", attempt=state.attempt_number, error=str(error), pause=round(state.upcoming_sleep, 3))
