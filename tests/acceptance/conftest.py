"""What several of these tests are about: the files that a build gives out, made once."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make dist` makes, with the program for this sort of machine alone."""
    folder = tmp_path_factory.mktemp("build") / "dist"
    command = [sys.executable, "-m", "deploy.packages", str(folder), f"--machine={platform.machine()}"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def program(dist: Path) -> Path:
    """The one-file program."""
    return dist / f"shoal-{platform.machine()}.pyz"
