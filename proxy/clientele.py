"""Which programs have asked this mirror, and when: a mirror that is configured and never asked is of no use. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.recent import Recent

_MAX_PROGRAMS = 32
_MAX_NAME = 64


@dataclass(slots=True)
class Program:
    """A kind of client. `asked_at` is of its last request, in seconds of a monotonic clock."""

    asked_at: float
    requests: int = 1


class Clientele:
    """The programs that clients name in `User-Agent`, those that asked last; what they name besides does not count."""

    def __init__(self) -> None:
        self.programs: Recent[str, Program] = Recent(_MAX_PROGRAMS)
        """By name and version, as `containerd/1.7.27`."""

    def asked(self, agent: str, now: float) -> None:
        """A request was answered."""
        name = program_of(agent)
        known = self.programs.get(name)
        requests = 1 if known is None else known.requests + 1
        self.programs.put(name, Program(now, requests))


def program_of(agent: str) -> str:
    """Name and version in a `User-Agent`; empty where it holds none."""
    name = agent.split(" ", 1)[0][:_MAX_NAME]
    return name if name.isascii() and name.isprintable() else ""
