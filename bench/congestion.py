"""One TCP congestion control for all contenders: the machine's default may be one that loopback does not suit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_IPV4 = Path("/proc/sys/net/ipv4")
_PREFERRED = ("reno", "cubic")
"""Both keep a full link full at once. Bandwidth probing (bbr) halves loopback."""


def choose(allowed: str, now: str) -> str:
    """The algorithm to use where `allowed` ones are to be had (separated by blanks) and `now` is set."""
    for name in _PREFERRED:
        if name in allowed.split():
            return name
    return now


def chosen() -> str:
    """The algorithm that namespaces and this machine can be given."""
    return choose(_read("tcp_allowed_congestion_control"), _read("tcp_congestion_control"))


@contextmanager
def same_congestion_control() -> Iterator[str]:
    """Set the algorithm for new connections on this machine, tell its name, and restore what was set.

    Without the right to set it, the machine's own stays: it is the same for all contenders.
    """
    setting = _IPV4 / "tcp_congestion_control"
    before, wanted = _read(setting.name), chosen()
    try:
        setting.write_text(wanted)
    except PermissionError:
        yield before
        return
    try:
        yield wanted
    finally:
        setting.write_text(before)


def _read(name: str) -> str:
    return (_IPV4 / name).read_text().strip()
