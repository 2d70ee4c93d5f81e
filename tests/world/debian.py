"""A Debian root filesystem, made from the packages that this machine itself has its own from."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.world.programs import require
from tests.world.tools import FOLDER

_PACKAGES = ("dbus", "openssl", "python3", "python3-venv", "systemd")


def debian_root() -> Path:
    """The folder of a small Debian that boots and has Python, kept on this machine between runs: it takes one to two
    minutes to make. Not to be written to."""
    root = FOLDER / f"debian-{release()}-{'-'.join(_PACKAGES)}"
    if not root.exists():
        require("debootstrap")
        made = root.with_name(f"{root.name}.{os.getpid()}")
        try:
            bootstrap(made, _PACKAGES)
            made.replace(root)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return root


def bootstrap(folder: Path, packages: Sequence[str] = ()) -> None:
    """Make the smallest Debian with `packages` in `folder`."""
    folder.mkdir(parents=True)
    mirror = _mirror()
    command = ["debootstrap", "--variant=minbase", *([f"--include={','.join(packages)}"] if packages else [])]
    subprocess.run([*command, release(), str(folder), *([mirror] if mirror else [])], check=True, capture_output=True)


def release() -> str:
    """The code name of this machine's release."""
    lines = Path("/etc/os-release").read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("VERSION_CODENAME="))


def _mirror() -> str:
    """Where this machine's own packages come from, as apt says; empty: debootstrap's own choice."""
    said = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"], capture_output=True, text=True
    )
    return next(iter(said.stdout.splitlines()), "")
