"""Where a daemon listens, as people type it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.cli.listening import Listening, parse_listening
from shoal.fields import authority


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:5080", "127.0.0.1", "5080"),
        ("node-1.example:5080", "node-1.example", "5080"),
        ("[::1]:5080", "::1", "5080"),
        ("[fe80::1%eth0]:5080", "fe80::1%eth0", "5080"),
        ("0.0.0.0", "0.0.0.0", None),
        ("[::]", "::", None),
        ("::", "::", None),
        ("fd00::7", "fd00::7", None),
        (":5080", None, "5080"),
        ("5080", None, "5080"),
    ],
)
def test_what_is_not_said_stays_as_it_is(text: str, host: str | None, port: str | None) -> None:
    assert parse_listening(text) == Listening(host, port)


@pytest.mark.parametrize(
    "text", ["", ":", "host:", "http://host:1", "a b:1", "[::1", "[1.2.3.4]:1", "[::1]x:1", "host:1:2", "-x:1", "h:-1"]
)
def test_what_is_no_address_is_told_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"allowed: HOST:PORT, HOST or :PORT"):
        parse_listening(text)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_each_address_is_read_back(address: object, port: int) -> None:
    assert parse_listening(authority(str(address), port)) == Listening(str(address), str(port))
