"""Traces: where the time of a pull goes, from a client's request to a piece. Without being asked for they cost nothing.

What is here records nothing and knows no OpenTelemetry. `traces_of` gives `shoal.spans` in its place where the
configuration wants traces.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING

from shoal.daemonsettings import TracesSettings

if TYPE_CHECKING:
    import aiohttp

Attributes = Mapping[str, str | int | float | bool]
NONE: Attributes = MappingProxyType({})


class TracesUnavailable(Exception):
    """Traces are wanted and cannot be made. The text says what to do."""


class Span:
    """A part of a pull that is not recorded."""

    __slots__ = ()

    @property
    def is_recorded(self) -> bool:
        return False

    @property
    def carried(self) -> bytes:
        """What another node joins the same trace by; empty where there is none."""
        return b""

    def rename(self, name: str) -> None:
        """It has turned out what this is."""

    def set(self, attributes: Attributes) -> None:
        """Say more of it."""

    def event(self, name: str, attributes: Attributes = NONE) -> None:
        """Something has happened meanwhile."""

    def link(self, other: Span) -> None:
        """This waits for a span that belongs to another one, maybe of another trace."""

    def failed(self, reason: str) -> None:
        """It has not gone well."""

    def end(self) -> None:
        """It is over; nothing is said of it any more."""


NO_SPAN = Span()
_NOTHING = contextlib.nullcontext(NO_SPAN)


class Traces:
    """The traces of a daemon that makes none."""

    @property
    def is_on(self) -> bool:
        return False

    def serving(self, headers: Mapping[str, str]) -> AbstractContextManager[Span]:
        """A client's request, which belongs to the client's own trace where its headers name one."""
        return _NOTHING

    def part(
        self, name: str, attributes: Attributes = NONE, parent: Span | None = None
    ) -> AbstractContextManager[Span]:
        """A part of `parent`, or of what this task does now; what is done inside belongs to it.

        Nothing is recorded where there is no such span: traces begin with requests of clients.
        """
        return _NOTHING

    def begin(self, name: str, attributes: Attributes = NONE, parent: Span | None = None) -> Span:
        """The same for what several tasks do; its owner calls `end`."""
        return NO_SPAN

    def joined(self, carried: bytes, name: str, attributes: Attributes = NONE) -> Span:
        """A part of another node's span, by what that one `carried` here; its owner calls `end`."""
        return NO_SPAN

    def of_requests(self) -> Sequence[aiohttp.TraceConfig]:
        """What an HTTP client needs so that each of its requests is a part of what its task does."""
        return ()

    def close(self) -> None:
        """Send what was recorded, within some seconds: in a thread."""


NO_TRACES = Traces()


def traces_of(settings: TracesSettings) -> Traces:
    """As the configuration has it; raises `TracesUnavailable`."""
    if not settings.enabled:
        return NO_TRACES
    try:
        from shoal.spans import RecordedTraces
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise TracesUnavailable(
            "`traces.enabled` needs OpenTelemetry, which is not there: pip install 'shoal[traces]', or switch it off"
        ) from None
    return RecordedTraces.exporting(upstreams=settings.upstreams)
