"""Where a daemon listens, as people type it. No I/O."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

_HOST = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252})"
_LISTENING = re.compile(
    rf"(?P<host>{_HOST}|\[[0-9A-Fa-f:.]{{2,45}}(?:%[A-Za-z0-9._-]{{1,32}})?\])?(?::(?P<port>[0-9]{{1,5}}))?"
)
ALLOWED = "HOST:PORT, HOST or :PORT, such as 127.0.0.1:5080, [::1]:5080 or :5080"


class Listening(NamedTuple):
    """A host without brackets, and a port; what is None stays as it is configured."""

    host: str | None
    port: str | None


def parse_listening(text: str) -> Listening:
    """Read `HOST:PORT`, `HOST` or `:PORT`; raises `ValueError` that says what is allowed."""
    if text.isdecimal():
        return parse_listening(f":{text}")
    try:
        return Listening(str(ipaddress.IPv6Address(text)), None)
    except ValueError:
        match = _LISTENING.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"{text!r} (allowed: {ALLOWED})")
    host, port = match["host"], match["port"]
    if host is not None and host.startswith("["):
        try:
            host = str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError(f"{text!r} holds no IPv6 address (allowed: {ALLOWED})") from None
    return Listening(host, port)
