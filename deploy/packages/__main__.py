"""`make dist`: builds all that is given out, into a folder that it makes anew."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deploy.packages.bill import write_bill
from deploy.packages.programs import fetch_wheels, write_program
from deploy.packages.sources import write_wheel_and_sources
from deploy.packages.targets import MACHINES, PYTHONS, Target

_ROOT = Path(__file__).parents[2]
_LOCK = _ROOT / "deploy/runtime.lock"
_SUMS = "SHA256SUMS"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.packages", description=__doc__)
    parser.add_argument("folder", type=Path, help="what is in it is removed first")
    parser.add_argument("--machine", action="append", choices=MACHINES, help="a program for these alone")
    options = parser.parse_args(arguments)
    _build(options.folder, options.machine or MACHINES, _epoch())


def _build(folder: Path, machines: Sequence[str], epoch: int) -> None:
    os.umask(0o022)  # files in archives have the rights that they had while they were packed
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        wheel = write_wheel_and_sources(_ROOT, epoch, scratch, folder)
        for machine in machines:
            targets = [Target(machine, python) for python in PYTHONS]
            wheels = scratch / machine
            for target in targets:
                fetch_wheels(target, _LOCK, wheels)
            write_program(targets, wheels, wheel, scratch, folder / f"shoal-{machine}.pyz")
        write_bill(_ROOT, _LOCK, wheel, scratch, folder / "shoal.cdx.json")
    files = sorted(folder.iterdir())
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (folder / _SUMS).write_text("".join(sums))


def _epoch() -> int:
    """The time that files bear, in seconds: what SOURCE_DATE_EPOCH says, else when the commit was made."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given:
        return int(given)
    command = ["git", "-C", str(_ROOT), "log", "-1", "--format=%ct"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
