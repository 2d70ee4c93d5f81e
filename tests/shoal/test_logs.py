"""Logs of a daemon."""

from __future__ import annotations

import io
import logging

import pytest
import structlog
from aiohttp.http_exceptions import LineTooLong

from shoal.daemonsettings import Level, LogSettings
from shoal.logs import set_up

pytestmark = pytest.mark.usefixtures("logs_as_before")


@pytest.mark.parametrize(("level", "lines"), [("info", 1), ("warning", 0)])
def test_a_request_that_is_no_http_is_a_line_without_its_text(level: Level, lines: int) -> None:
    stream = io.StringIO()
    set_up(LogSettings(level=level), stream)
    try:
        raise LineTooLong(b"Bearer secret...", 10)
    except LineTooLong as error:
        logging.getLogger("aiohttp.server").exception("Error handling request from %s", "192.0.2.1", exc_info=error)
    told = stream.getvalue()
    assert len(told.splitlines()) == lines
    assert "secret" not in told
    assert ("192.0.2.1: LineTooLong" in told) is (lines == 1)


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    stream = io.StringIO()
    set_up(LogSettings(level="warning"), stream)
    try:
        raise KeyError("x")
    except KeyError as error:
        logging.getLogger("aiohttp.server").exception("Error handling request from %s", "192.0.2.1", exc_info=error)
    assert "Traceback" in stream.getvalue()


def test_a_secret_in_a_field_or_a_traceback_is_masked() -> None:
    stream, secret = io.StringIO(), "t" * 20
    set_up(LogSettings(level="debug", format="json"), stream)
    try:
        raise KeyError(f"http://alice:{secret}@proxy.example")
    except KeyError:
        structlog.get_logger().exception("origin.failed", error=f"https://cdn.example/blob?signature={secret}")
    assert "origin.failed" in stream.getvalue()
    assert secret not in stream.getvalue()
