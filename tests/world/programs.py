"""Programs that tests need and may lack."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

_SECONDS = 90.0


class ProgramFailed(AssertionError):
    """A client ended with a status other than 0; fails a test that did not expect it."""


def require(*names: str) -> None:
    """Skip the test where a program is not installed; under SHOAL_REQUIRE_REAL=1 fail it."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        lack(f"not installed: {', '.join(missing)}")


def require_root() -> None:
    """Skip or fail a test that only root can run."""
    if os.geteuid() != 0:
        lack("needs root")


def lack(reason: str) -> None:
    """Skip the test for this reason; under SHOAL_REQUIRE_REAL=1 fail it."""
    if os.environ.get("SHOAL_REQUIRE_REAL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def run(*command: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a client to its end and return what it printed; raises `ProgramFailed` with its words."""
    done = subprocess.run(
        [str(word) for word in command],
        check=False,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode != 0:
        raise ProgramFailed(f"{_shown(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def _shown(command: Sequence[str | Path]) -> str:
    return " ".join(str(word) for word in command)
