"""The one-file program: everything but Python itself, for hosts that have that and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.packages.targets import Target


def fetch_wheels(target: Target, lock: Path, folder: Path) -> None:
    """Put the wheels that `lock` names into `folder`, each with a hash that stands there."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--require-hashes", "--no-deps", "--only-binary=:all:", f"--requirement={lock}", f"--dest={folder}"]
    command += [f"--python-version={target.version}", *(f"--platform={name}" for name in target.platforms)]
    subprocess.run(command, check=True)


def write_program(targets: Sequence[Target], wheels: Path, wheel: Path, folder: Path, file: Path) -> None:
    """Write a program that runs on each of `targets`; the same bytes each time.

    `wheel` is Shoal's own, `wheels` has all that it needs; `folder` is for what lies about on the way.
    """
    command = [sys.executable, "-m", "pex", "shoal[traces]", "--disable-cache", "--script=shoal", "--venv=prepend"]
    command += ["--python-shebang=/usr/bin/env python3", f"--output-file={file}"]
    command += [f"--pre-resolved-dists={wheels}", f"--pre-resolved-dist={wheel}"]
    command += [f"--complete-platform={target.describe(folder)}" for target in targets]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
