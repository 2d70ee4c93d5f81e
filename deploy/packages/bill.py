"""The bill of materials: each package of a build with its version, licence and what needs it, as CycloneDX has it."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path


def write_bill(root: Path, lock: Path, wheel: Path, scratch: Path, file: Path) -> None:
    """Install what `lock` names and Shoal's `wheel` into an environment in `scratch`, and write down what is there."""
    environment = scratch / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--require-hashes", f"--requirement={lock}"], check=True)
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    command = [sys.executable, "-m", "cyclonedx_py", "environment", f"--pyproject={root / 'pyproject.toml'}"]
    command += ["--mc-type=application", "--output-reproducible", "--output-format=JSON", f"--output-file={file}"]
    subprocess.run([*command, str(python)], check=True)
