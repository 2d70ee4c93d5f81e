"""What several of these tests are about: the files that a build gives out, made once."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.documents import ROOT


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


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages that the project needs, as an index has them; kept for as long as the lock is the same."""
    lock = (ROOT / "requirements.lock").read_bytes()
    kept = ROOT / ".cache" / f"wheels-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not kept.exists():
        made = tmp_path_factory.mktemp("wheels")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--dest", str(made)]
        subprocess.run([*pip, "setuptools", "wheel", "click-man", str(ROOT)], check=True, timeout=300)
        kept.parent.mkdir(exist_ok=True)
        shutil.copytree(made, kept)
    return kept
