"""Programs that run here, and which of them root may run again."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shoal.cli.runtimes.containerdconfig import program
from shoal.cli.runtimes.host import Host
from shoal.cli.runtimes.processes import Process, processes

SLEEP = Path(shutil.which("sleep") or "sleep").resolve()


@contextmanager
def running(executable: Path, name: str) -> Iterator[Process]:
    """A program that is called by some name."""
    started = subprocess.Popen([name, "60"], executable=executable)
    try:
        yield next(each for each in processes(Host(Path("/")), Path(name).name) if each.pid == started.pid)
    finally:
        started.kill()
        started.wait()


def test_a_program_of_the_machine_is_known_by_its_file() -> None:
    with running(SLEEP, "any/name") as process:
        assert process.executable == SLEEP


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_program_where_everybody_may_put_one_is_not_run(tmp_path: Path, mode: int) -> None:
    """Else any user would have root run what he likes, when root calls `shoal doctor`."""
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    copy = folder / "containerd"
    shutil.copy(SLEEP, copy)
    with running(copy, "containerd") as process:
        assert process.executable is None
        assert program(Host(Path("/"))) != str(copy)
        copy.unlink()
        assert process.executable is None


def test_another_program_that_is_called_containerd_is_not_run() -> None:
    with running(SLEEP, "containerd"):
        assert program(Host(Path("/"))) != str(SLEEP)
