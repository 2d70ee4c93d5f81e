"""Machines of their own in the namespaces of a network: to follow the documents as an operator would on real ones.

A machine has this one's programs and files, and what it writes is its own and gone with it: its root is an overlay over
this root. It has its own processes, network and folders for temporary and running state, and no systemd.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from bench.netns import Host
from bench.processes import Program

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SIZE = "2g"
"""Of what a machine may write, in memory: an overlay cannot lie in the folder that it lies over."""
_READY = "the machine is ready"
_START_SECONDS, _COMMAND_SECONDS = 20.0, 300.0

_BOOT = """
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


class Machine:
    """A machine at `host`, as a context manager that ends all that runs on it. Needs root."""

    def __init__(self, host: Host, name: str, folder: Path, shared: Path) -> None:
        """`folder` is for the machine alone, `shared` is its /mnt."""
        self.host = host
        self.name = name
        self._folder = folder
        self._shared = shared
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        boot = _BOOT.format(
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
        (self._pid,) = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._init.kill()
        self._init.wait()
        assert self._init.stdout is not None
        self._init.stdout.close()

    def command(self, script: str, folder: str = "/root") -> list[str]:
        """The command line that has a shell of the machine run a script in a folder of it."""
        environment = ["env", "-i", f"PATH={_PATH}", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb"]
        entering = ["nsenter", f"--target={self._pid}", "--mount", "--pid", "--uts", "--net", "--root"]
        return [*entering, f"--wdns={folder}", *environment, "bash", "-euo", "pipefail", "-c", script]

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
