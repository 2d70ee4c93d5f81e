"""The files that a build gives out do what they are for, where nothing else of Shoal is."""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.acceptance.documents import typed
from tests.world.programs import require, require_root, run

pytestmark = pytest.mark.timeout(400)
_ROOT = Path(__file__).parents[2]
_NOBODY = 65534
_SYSTEM_PYTHON = Path("/usr/bin/python3")
"""Debian's, which has nothing of Shoal's or of what it needs."""


class Stranger:
    """A user who owns a home folder and nothing else, with an empty environment, and the program beside it."""

    def __init__(self, folder: Path, program: Path) -> None:
        self._home = folder / "home"
        self._home.mkdir()
        os.chown(self._home, _NOBODY, _NOBODY)
        folder.chmod(0o755)
        self.program = Path(shutil.copy(program, folder / "shoal"))

    def __call__(self, *command: str | Path) -> str:
        """What a command prints."""
        clean = ["env", "-i", f"HOME={self._home}", "PATH=/usr/bin:/bin"]
        return run("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", *clean, *command)


@pytest.fixture
def stranger(program: Path) -> Iterator[Stranger]:
    """Not below pytest's own folder, which is closed to all but root."""
    require_root()
    require("setpriv")
    with tempfile.TemporaryDirectory() as folder:
        yield Stranger(Path(folder), program)


def test_the_program_needs_python_and_nothing_else(stranger: Stranger) -> None:
    with pytest.raises(AssertionError, match="No module named 'aiohttp'"):
        stranger(_SYSTEM_PYTHON, "-I", "-c", "import aiohttp")
    assert stranger(_SYSTEM_PYTHON, "-I", stranger.program, "--version").startswith("shoal ")


def test_the_program_runs_by_its_name_and_has_its_extras(stranger: Stranger) -> None:
    assert "[peer]" in stranger(stranger.program, "--print-config")
    needed = "import uvloop, blake3, cryptography, msgspec, opentelemetry.sdk; print('all there')"
    assert stranger("env", "PEX_INTERPRETER=1", stranger.program, "-c", needed) == "all there\n"


def test_the_program_is_for_each_python_that_shoal_runs_on(program: Path) -> None:
    with zipfile.ZipFile(program) as archive:
        wheels = {name.split("/")[1] for name in archive.namelist() if name.startswith(".deps/")}
    versions = {name.split("-")[2] for name in wheels if name.startswith("uvloop-")}
    assert versions == {"cp311", "cp312", "cp313", "cp314"}


def test_the_wheel_brings_man_pages_and_completion(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    run(sys.executable, "-m", "pip", "--python", environment / "bin/python", "install", "--no-deps", "--quiet", wheel)
    share = environment / "share"
    page = (share / "man/man1/shoal-pull.1").read_text().replace("\\-", "-")
    assert page.startswith('.TH "SHOAL PULL" "1"')
    assert "--platform" in page
    assert run("bash", "-n", share / "bash-completion/completions/shoal") == ""
    assert "complete" in (share / "bash-completion/completions/shoal").read_text()
    assert (share / "zsh/site-functions/_shoal").read_text().startswith("#compdef shoal")
    assert "shoal" in (share / "fish/vendor_completions.d/shoal.fish").read_text()


def test_the_bill_of_materials_is_valid_and_names_what_is_in_the_lock(dist: Path) -> None:
    text = (dist / "shoal.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    lock = (_ROOT / "deploy/runtime.lock").read_text().splitlines()
    pins = [line.split()[0].split("==") for line in lock if "==" in line and not line.startswith(" ")]
    assert [f"pkg:pypi/{name}@{version}" for name, version in pins if f"pkg:pypi/{name}@{version}" not in text] == []
    assert str(_ROOT) not in text


def test_the_sums_are_those_of_all_other_files(dist: Path) -> None:
    lines = (dist / "SHA256SUMS").read_text().splitlines()
    assert lines == [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}"
        for file in sorted(dist.iterdir())
        if file.name != "SHA256SUMS"
    ]


def test_the_sums_are_checked_as_the_documents_say(dist: Path) -> None:
    (block,) = (block for block in typed(_ROOT / "docs/deployment/air-gapped.md") if block.words == ("dist",))
    done = subprocess.run(["sh", "-e", "-c", block.text], cwd=dist, check=True, capture_output=True, text=True)
    assert done.stdout.count(": OK\n") == len(list(dist.iterdir())) - 1


def test_the_same_commit_gives_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    again = tmp_path / "dist"
    command = [sys.executable, "-m", "deploy.packages", str(again), f"--machine={os.uname().machine}"]
    subprocess.run(["sh", "-c", 'umask 077 && exec "$@"', "sh", *command], check=True, capture_output=True)
    names = [file.name for file in dist.iterdir()]
    assert filecmp.cmpfiles(dist, again, names, shallow=False)[1:] == ([], [])


def test_the_sources_build_the_same_wheel(dist: Path, tmp_path: Path) -> None:
    (sources,) = dist.glob("*.tar.gz")
    with tarfile.open(sources) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", f"--outdir={tmp_path}", folder)
    (wheel,), (built,) = dist.glob("*.whl"), tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as given, zipfile.ZipFile(built) as made:
        assert {each.filename: each.CRC for each in given.infolist()} == {
            each.filename: each.CRC for each in made.infolist()
        }


def test_what_is_packed_is_what_is_tested() -> None:
    tested = (_ROOT / "requirements.lock").read_text()
    pins = [
        line.split()[0]
        for lock in ("deploy/runtime.lock", "deploy/build.lock")
        for line in (_ROOT / lock).read_text().splitlines()
        if "==" in line and not line.startswith(" ")
    ]
    assert len(pins) > 20
    assert [pin for pin in pins if f"{pin} " not in tested] == []
