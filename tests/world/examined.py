"""What `shoal doctor` says of a node of the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.netns import Host
from shoal.cli.finding import Finding

_MOST_SECONDS = 10.0
_START_SECONDS = 3.0
"""What a process may take to begin while others use the processors too."""


@dataclass(frozen=True)
class Examined:
    """One run of it."""

    code: int
    """Its exit code."""
    parts: Mapping[str, list[Finding]]

    @property
    def findings(self) -> list[Finding]:
        return [finding for part in self.parts.values() for finding in part]

    @property
    def faults(self) -> dict[str, str]:
        """Levels by code of what is not well."""
        return {each.code: each.level for each in self.findings if each.level != "ok"}

    def fault(self, code: str) -> Finding:
        """The first fault of that name; fails where there is none."""
        found = [each for each in self.findings if each.code == code and each.level != "ok"]
        assert found, f"no {code} among {self.faults}"
        return found[0]


@dataclass(frozen=True)
class Examiner:
    """Runs it beside a node, on its host and with its configuration."""

    root: Path
    """What is the host's file system to it."""
    environment: Mapping[str, str] = field(default_factory=dict)
    host: Host | None = None
    prefix: Sequence[str] = ()
    """A command that becomes it."""

    def run(self, *arguments: str, **environment: str) -> Examined:
        command = [
            *self.prefix,
            sys.executable,
            "-m",
            "shoal.cli",
            "doctor",
            "--json",
            "--root",
            str(self.root),
            *arguments,
        ]
        began = time.monotonic()
        done = subprocess.run(
            command if self.host is None else self.host.command(command),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **self.environment, **environment},
        )
        seconds = time.monotonic() - began
        assert done.returncode in {0, 1, 2}, done.stderr
        assert seconds < _MOST_SECONDS + _START_SECONDS, f"it took {seconds:.1f} s"
        told = json.loads(done.stdout)
        parts = {part["part"]: [Finding(**each) for each in part["findings"]] for part in told["parts"]}
        assert not [each for part in parts.values() for each in part if each.level != "ok" and not each.remedy]
        return Examined(done.returncode, parts)
