"""A machine of its own in namespaces: systemd as process 1, a network without a way out, a disk that is thrown away."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Self

from tests.world.programs import run

_START_SECONDS = 30.0
_CGROUPS = Path("/sys/fs/cgroup")

_BOOT = """
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


class Machine:
    """Boots on entering, from a folder with a root filesystem that stays as it is; ends on leaving. Needs root."""

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
                ["sh", "-c", f'{joins} exec "$@"', "sh", *spaces, "sh", "-c", _BOOT],
                env={"lower": str(self._lower), "folder": str(self._folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                stdout=console,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + _START_SECONDS
        while self._state() not in ("running", "degraded"):
            assert time.monotonic() < deadline, (self._folder / "console").read_text(errors="replace")
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + _START_SECONDS
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
        own = self._process.pid
        first = Path(f"/proc/{own}/task/{own}/children").read_text().strip()
        spaces = ["--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--root", "--wd=/"]
        return ["nsenter", f"--target={first}", *spaces, "env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin"]


def _hierarchies() -> list[Path]:
    """Where control groups of systemd are made: in one hierarchy, or in the two of the older layout."""
    older = [_CGROUPS / name for name in ("systemd", "unified")]
    return older if older[0].is_dir() else [_CGROUPS]


def _has_members(group: Path) -> bool:
    return any(file.read_text() for file in group.rglob("cgroup.procs"))
