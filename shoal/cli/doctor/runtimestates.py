"""How each container runtime of the host is configured, as its own check tells."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.cli.finding import Finding
from shoal.cli.runtimes.catalog import RUNTIMES
from shoal.cli.runtimes.host import FileUnusable, Host
from shoal.cli.runtimes.mirror import Mirror
from shoal.cli.runtimes.runtime import Runtime


@dataclass(frozen=True, slots=True)
class RuntimeState:
    """One runtime of the host, and what its own check has found."""

    name: str
    is_touched: bool
    """Whether its files name the mirror anywhere, so that it is meant to ask it."""
    findings: tuple[Finding, ...]

    @property
    def is_configured(self) -> bool:
        return not any(finding.level == "error" for finding in self.findings)


def states_of(host: Host, mirror: Mirror) -> list[RuntimeState]:
    """All runtimes that the host has."""
    return [_state(runtime, host, mirror) for runtime in RUNTIMES.values() if runtime.is_present(host)]


def _state(runtime: Runtime, host: Host, mirror: Mirror) -> RuntimeState:
    try:
        found = runtime.check(host, mirror)
        is_touched = any(mirror.host in (each.old or "") for each in runtime.plan(host, mirror).files)
        return RuntimeState(runtime.name, is_touched, tuple(found))
    except FileUnusable as error:
        text = f"How {runtime.name} is configured could not be seen: {error}."
        remedy = "Run `shoal doctor` as root; where it is the file that is wrong, put that right."
        return RuntimeState(runtime.name, True, (Finding("runtime-unseen", "warning", text, remedy),))
