"""Machines of their own in namespaces: to follow the documents as an operator would on real ones, and for systemd.

What a machine writes is its own and gone with it: its root is an overlay over another one. It has its own processes and
network.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from bench.netns import Host
from bench.processes import Program
from tests.world.programs import run

_CLEAN = ("env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
_SIZE = "2g"
"""Of what a machine may write, in memory: an overlay cannot lie in the folder that it lies over."""
_READY = "the machine is ready"
_COMMAND_SECONDS = 300.0
_BOOT_SECONDS = 30.0
_CGROUPS = Path("/sys/fs/cgroup")

_OVERLAY_BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs -o size={size} tmpfs {folder}
mkdir {folder}/upper {folder}/work {folder}/root
mount -t overlay overlay -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work {folder}/root
cd {folder}/root
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount --bind {shared} mnt
mkdir -p var/lib/docker var/lib/containerd
mount -t tmpfs tmpfs var/lib/docker
mount -t tmpfs tmpfs var/lib/containerd
hostname {name}
echo {ready}
exec chroot . /bin/bash -c 'while :; do sleep 3600 & wait; done'
"""

_SYSTEMD_BOOT = """
set -e
mkdir -p "$folder/upper" "$folder/work" "$folder/root"
root="$folder/root"
mount -t overlay -o "lowerdir=$lower,upperdir=$folder/upper,workdir=$folder/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t mqueue mqueue "$root/dev/mqueue"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
if test -d /sys/fs/cgroup/systemd; then
    mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/systemd" "$root/sys/fs/cgroup/unified"
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
else
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
fi
mkdir -p "$root/old"
cd "$root"
pivot_root . old
umount -l /old
mount --make-rshared /
exec env -i container=other PATH=/usr/sbin:/usr/bin /lib/systemd/systemd
"""
"""From the first process in the namespaces to systemd. It has devices as a container has them."""


class OverlayMachine:
    """Has this machine's programs and files at `host`, without systemd; ends all of it on leaving. Needs root."""

    def __init__(self, host: Host, name: str, folder: Path, shared: Path) -> None:
        """`folder` is for the machine alone, `shared` is its /mnt."""
        self.host = host
        self.name = name
        self._folder = folder
        self._shared = shared
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        boot = _OVERLAY_BOOT.format(
            size=_SIZE, folder=shlex.quote(str(self._folder)), shared=self._shared, name=self.name, ready=_READY
        )
        namespaces = ["unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child"]
        self._init = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.host.namespace}", *namespaces, "bash", "-c", boot],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._init.stdout is not None
        said = self._init.stdout.readline()
        assert said.strip() == _READY, said + self._init.stdout.read()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._init.kill()
        self._init.wait()
        assert self._init.stdout is not None
        self._init.stdout.close()

    def command(self, script: str, folder: str = "/root") -> list[str]:
        """The command line that has a shell of the machine run a script in a folder of it."""
        shell = ["bash", "-euo", "pipefail", "-c", script]
        return [*_entering(self._init), f"--wdns={folder}", *_CLEAN, "HOME=/root", "LANG=C.UTF-8", "TERM=dumb", *shell]

    def run(self, script: str, folder: str = "/root", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a script to its end; fails with all that it said where its status is not 0 and `check` is set."""
        done = subprocess.run(
            self.command(script, folder),
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_COMMAND_SECONDS,
        )
        assert not check or done.returncode == 0, f"{self.name}$ {script}\n{done.stdout}"
        return done

    def begin(self, script: str, folder: str = "/root") -> Program:
        """Run a script until the machine ends, as a daemon in a terminal of its own; its output is in `shared`."""
        log = self._shared / f"{self.name}-{len(list(self._shared.iterdir()))}.log"
        return self._stack.enter_context(Program(self.command(script, folder), log, dict(os.environ)))

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write one of the machine's files, as its owner has set it up before."""
        target = Path(path)
        script = f"mkdir -p {target.parent} && cat > {target} && chmod {mode:o} {target}"
        done = subprocess.run(self.command(script), check=False, input=text, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr


class SystemdMachine:
    """Has systemd as process 1, and a network without a way out. Needs root.

    Boots on entering, from a folder with a root filesystem that stays as it is; ends on leaving.
    """

    def __init__(self, lower: Path, folder: Path) -> None:
        """`folder` holds what the machine writes."""
        self._lower = lower
        self._folder = folder
        self._groups = [each / folder.name for each in _hierarchies()]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def disk(self) -> Path:
        """What is put there before the boot, the machine has."""
        return self._folder / "upper"

    def __enter__(self) -> Self:
        for group in self._groups:
            group.mkdir()
        joins = "".join(f"echo $$ > {group}/cgroup.procs; " for group in self._groups)
        spaces = ["unshare", "--pid", "--fork", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--kill-child"]
        with (self._folder / "console").open("wb") as console:
            self._process = subprocess.Popen(
                ["sh", "-c", f'{joins} exec "$@"', "sh", *spaces, "sh", "-c", _SYSTEMD_BOOT],
                env={"lower": str(self._lower), "folder": str(self._folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                stdout=console,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + _BOOT_SECONDS
        while self._state() not in ("running", "degraded"):
            assert time.monotonic() < deadline, (self._folder / "console").read_text(errors="replace")
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + _BOOT_SECONDS
        for group in self._groups:
            while _has_members(group):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            for inner in sorted(group.rglob("*/"), reverse=True):
                inner.rmdir()
            group.rmdir()

    def run(self, *command: str) -> str:
        """What a command prints there; raises `ProgramFailed`."""
        return run(*self._inside(), *command)

    def _state(self) -> str:
        asked = [*self._inside(), "systemctl", "is-system-running"]
        return subprocess.run(asked, capture_output=True, text=True).stdout.strip()

    def _inside(self) -> list[str]:
        assert self._process is not None
        return [*_entering(self._process), "--ipc", "--cgroup", "--wd=/", *_CLEAN]


def _entering(unshared: subprocess.Popen[str] | subprocess.Popen[bytes]) -> list[str]:
    """The beginning of a command line that is run in a machine, by the process that has made its namespaces."""
    first = Path(f"/proc/{unshared.pid}/task/{unshared.pid}/children").read_text().strip()
    return ["nsenter", f"--target={first}", "--mount", "--pid", "--uts", "--net", "--root"]


def _hierarchies() -> list[Path]:
    """Where control groups of systemd are made: in one hierarchy, or in the two of the older layout."""
    older = [_CGROUPS / name for name in ("systemd", "unified")]
    return older if older[0].is_dir() else [_CGROUPS]


def _has_members(group: Path) -> bool:
    return any(file.read_text() for file in group.rglob("cgroup.procs"))
