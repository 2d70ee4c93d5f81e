"""The wheel and the archive of sources, the same bytes for the same commit."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

from manual.share import write_manual

_FILES = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md")


def write_wheel_and_sources(root: Path, epoch: int, scratch: Path, folder: Path) -> Path:
    """Put both into `folder` and return the wheel. They are made from a copy in `scratch`, with man pages and
    completions in it, so that nothing that lies about in the work tree `root` gets in."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    copy = scratch / "shoal"
    copy.mkdir()
    for name in _FILES:
        shutil.copy(root / name, copy / name)
    for package in project["tool"]["setuptools"]["packages"]:
        place = Path(package.replace(".", "/"))
        (copy / place).mkdir(exist_ok=True)
        for file in (root / place).iterdir():
            if file.is_file():
                shutil.copy(file, copy / place / file.name)
    write_manual(copy, project["project"]["version"], epoch)
    command = [sys.executable, "-m", "build", "--no-isolation", f"--outdir={folder}", str(copy)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    (sources,) = folder.glob("shoal-*.tar.gz")
    _settle(sources, epoch)
    (wheel,) = folder.glob("shoal-*.whl")
    return wheel


def _settle(archive: Path, epoch: int) -> None:
    """Write an archive anew without what differs from build to build: times, owners, order."""
    content = io.BytesIO()
    with tarfile.open(archive) as made, tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as settled:
        for member in sorted(made.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() else 0o644
            member.pax_headers = {}
            settled.addfile(member, made.extractfile(member) if member.isfile() else None)
    archive.write_bytes(gzip.compress(content.getvalue(), mtime=0))
