"""Programs that run on the host, with what they were started with and when."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shoal.cli.runtimes.host import Host

_PROC = Path("/proc")
_START_FIELD = 19
"""Of `/proc/PID/stat` behind the program's name (proc(5)): when it started, in ticks since the machine did."""
_CLOCK_SLACK = 1.0
"""Seconds by which the kernel's own start is rounded."""
_RUN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Process:
    """A running program."""

    pid: int
    arguments: tuple[str, ...]
    started: float
    """Seconds since the epoch."""

    @property
    def executable(self) -> Path | None:
        """The file that it runs, as long as that is this machine's own; None of one that is gone, lies in a container,
        or where others than root may put files: anybody may call his program as he likes, and root may run this one."""
        link = _PROC / str(self.pid) / "exe"
        try:
            path = link.readlink()
            is_own = path.samefile(link) and all(map(_is_roots, (path, *path.parents)))
        except OSError:
            return None
        return path if is_own else None

    def is_older_than(self, host: Host, path: PurePosixPath) -> bool:
        """Whether a file was written after it started."""
        try:
            return host.place(path).stat().st_mtime > self.started + _CLOCK_SLACK
        except OSError:
            return False


def processes(host: Host, *programs: str) -> list[Process]:
    """The running programs of these names; none where the host's files belong to another machine."""
    if not host.is_running:
        return []
    found = (_process(folder) for folder in _PROC.iterdir() if folder.name.isdecimal())
    return [each for each in found if each and Path(each.arguments[0]).name in programs]


def readers(host: Host, program: str, configuration: PurePosixPath) -> list[Process]:
    """The running programs of one name to which a file's place is the same: others have another one mounted there."""
    return [each for each in processes(host, program) if _shares(host, each, configuration.parent)]


def option(arguments: Sequence[str], *names: str) -> str | None:
    """What an option was given as, `--name value` or `--name=value`."""
    for place, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else next(iter(arguments[place + 1 :]), None)
    return None


def output(*command: str) -> str | None:
    """What a program of this machine prints; None where there is none, or it fails or takes longer than 10 s."""
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_RUN_SECONDS)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout


def _shares(host: Host, process: Process, folder: PurePosixPath) -> bool:
    """Whether a folder is the same for a process, which may have other file systems mounted."""
    theirs = _PROC / str(process.pid) / "root" / folder.relative_to("/")
    try:
        return theirs.samefile(host.place(folder))
    except FileNotFoundError:
        return theirs.exists() == host.exists(folder)
    except OSError:
        return False


def _is_roots(path: Path) -> bool:
    """Whether a file or a folder is changed by root alone, or its group; raises `OSError`."""
    status = path.lstat()
    return status.st_uid == 0 and not status.st_mode & stat.S_IWOTH


def _process(folder: Path) -> Process | None:
    try:
        words = (folder / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = next(line for line in (_PROC / "stat").read_text().splitlines() if line.startswith("btime "))
    except (OSError, StopIteration):
        return None  # it has ended
    if not words[0]:
        return None  # a thread of the kernel
    ticks = int(fields[_START_FIELD]) / os.sysconf("SC_CLK_TCK")
    return Process(int(folder.name), tuple(os.fsdecode(word) for word in words), int(boot.split()[1]) + ticks)
