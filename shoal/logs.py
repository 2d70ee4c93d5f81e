"""Logs: events with fields, one line for one fact, on standard error, for people or as JSON.

What libraries log through the standard library (aiohttp, asyncio) comes out in the same form.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import structlog
from aiohttp.http_exceptions import HttpProcessingError
from structlog.typing import EventDict, Processor, WrappedLogger

from shoal.daemonsettings import LogSettings
from shoal.redaction import redacted

_SHARED: Sequence[Processor] = (
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def set_up(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send this process's logs to `stream` (standard error); a second call replaces the first."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    json = settings.format == "json"
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), structlog.stdlib.add_logger_name, *_SHARED],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str) if json else _line,
            _safe,
        ],
    )
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(formatter)
    server = logging.getLogger("aiohttp.server")
    server.filters = [_malformed]
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def _malformed(record: logging.LogRecord) -> bool:
    """A request that is no HTTP is its sender's fault: no traceback, and not its text, which may hold a secret."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.msg = f"{record.msg}: {type(error).__name__}"
        record.levelno, record.levelname, record.exc_info = logging.INFO, "INFO", None
    return logging.getLogger(record.name).isEnabledFor(record.levelno)


def _safe(_: WrappedLogger, __: str, line: Any) -> str:
    """A line that is ready, without what must not be read by others."""
    return redacted(line)


def _line(_: WrappedLogger, __: str, event: EventDict) -> str:
    """`2026-01-31T12:00:00.123456Z info    blob.verified digest=... seconds=0.5`, a traceback below it."""
    exception = event.pop("exception", None)
    words = [str(event.pop("timestamp")), f"{event.pop('level'):<7}", _escaped(str(event.pop("event")))]
    words += [f"{key}={_value(value)}" for key, value in event.items()]
    return "\n".join([" ".join(words), *([exception] if exception else [])])


def _value(value: object) -> str:
    """As logfmt has it: quoted where it is empty or holds what would not be read back; no control characters."""
    text = _escaped(str(value))
    return '"' + text.replace('"', '\\"') + '"' if not text or any(mark in text for mark in ' ="') else text


def _escaped(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
