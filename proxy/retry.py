"""How long an upstream has to answer a question, and when it is asked again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import aiohttp
import structlog
import tenacity

from peer.account import Cause, waiting_for
from peer.origin import OriginUnavailable
from proxy.settings import UpstreamSettings

log = structlog.get_logger()

ANSWER_SECONDS = 4.5
"""Within this time in all a question is answered or given up, however often it is asked: no client waits for 5 s."""

MAX_RETRY_AFTER = 3.0
"""Seconds that a client is let wait because an upstream said `Retry-After`; beyond, the upstream counts as gone."""

_TRANSIENT = frozenset({408, 425, 500, 502, 503, 504})
_BACKOFF = tenacity.wait_random_exponential(multiplier=0.2, max=5.0)

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


class Transient(OriginUnavailable):
    """A failure that another try may mend."""


class Unreachable(Transient):
    """No answer at all: whatever else is asked of the same host has to wait as long in vain."""


class Silent(Unreachable):
    """A host that was waited for as long as there was time: another try would not come to its end."""


class Limited(OriginUnavailable):
    """The origin wants to be left alone for a time (429)."""


def failure(response: aiohttp.ClientResponse, message: str) -> OriginUnavailable:
    """The error for a status that says that the server cannot answer now, or will not."""
    after = parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
    if response.status == 429:
        return Limited(message, after)
    return Transient(message, after) if response.status in _TRANSIENT else OriginUnavailable(message)


@contextlib.asynccontextmanager
async def answering(name: str) -> AsyncIterator[asyncio.Timeout]:
    """The time that upstream `name` has for its answer; `read_whole` gives it more with each part of the answer.

    Raises `Transient` at its end.
    """
    try:
        async with asyncio.timeout(ANSWER_SECONDS) as limit:
            yield limit
    except TimeoutError:
        raise Unreachable(f"{name} gave no answer within {ANSWER_SECONDS:g} s") from None


async def read_whole(
    response: aiohttp.ClientResponse,
    size_limit: int,
    limit: asyncio.Timeout | None = None,
    take: Callable[[int], None] = lambda _: None,
) -> bytes:
    """The whole body; raises `OriginUnavailable` where it has more than `size_limit` bytes.

    `limit` is put off with each part of it, for the size of which `take` finds room before.
    """
    content = bytearray()
    while chunk := await response.content.readany():
        take(len(chunk))
        content += chunk
        if len(content) > size_limit:
            raise OriginUnavailable(f"an answer of more than {size_limit} bytes")
        if limit is not None:
            limit.reschedule(asyncio.get_running_loop().time() + ANSWER_SECONDS)
    return bytes(content)


def parse_retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds from `now` on that a `Retry-After` header names (a number or a date); None where it names none."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


async def persist(work: Callable[[], Awaitable[T]], upstream: UpstreamSettings, sleep: Sleep = asyncio.sleep) -> T:
    """The result of `work`, called again after each `Transient` within the upstream's bounds; raises the last error."""

    async def pause(seconds: float) -> None:
        with waiting_for(Cause.ORIGIN_FAILED):
            await sleep(seconds)

    retrying = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(upstream.retries + 1) | tenacity.stop_after_delay(upstream.read_timeout),
        wait=_pause,
        retry=tenacity.retry_if_exception(_is_worth_it),
        sleep=pause,
        before_sleep=_log_failure,
        reraise=True,
    )
    return await retrying(work)


def _is_worth_it(error: BaseException) -> bool:
    if not isinstance(error, Transient) or isinstance(error, Silent):
        return False
    return error.after is None or error.after <= MAX_RETRY_AFTER


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    backoff = float(_BACKOFF(state))
    return max(error.after, backoff) if isinstance(error, Transient) and error.after is not None else backoff


def _log_failure(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    log.warning("origin.retry", attempt=state.attempt_number, error=str(error), pause=round(state.upcoming_sleep, 3))
