"""Real runtimes that know of a mirror what stands in their own files in /etc, and nothing else.

Each has its folders in /etc to itself: they are mounted over this machine's own, in a name space of mounts.
"""

from __future__ import annotations

import json
import signal
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from bench.daemons import Daemon
from tests.world.clients import STAY_HERE
from tests.world.programs import ProgramFailed, require, require_root, run
from tests.world.tools import TOOLS, require_tool

_SECONDS = 20.0

IMAGE = "docker.io/library/configured:latest"


class Configured(ABC):
    """A runtime. Its configuration is below `root`, as on a host whose file system is mounted there."""

    name: ClassVar[str]
    """As `shoal config NAME` has it."""
    folders: ClassVar[tuple[str, ...]]
    """Its own ones in /etc."""
    programs: ClassVar[tuple[str, ...]]

    def __init__(self, root: Path, stack: ExitStack) -> None:
        require_root()
        require(*self.programs)
        self.root = root
        self.stack = stack
        for folder in self.folders:
            (root / "etc" / folder).mkdir(parents=True, exist_ok=True)
            Path("/etc", folder).mkdir(parents=True, exist_ok=True)
        for path, text in self.former().items():
            (root / "etc" / path).write_text(text)

    @abstractmethod
    def former(self) -> dict[str, str]:
        """Files of /etc that somebody wrote before."""

    @abstractmethod
    def reload(self) -> None:
        """What `shoal config` says is to be done after a change."""

    @abstractmethod
    def pull(self) -> None:
        """Pull `IMAGE` and drop it again; raises `ProgramFailed`."""

    def inside(self, *command: str | Path) -> list[str]:
        """The command with the folders at their place."""
        mounts = " && ".join(f"mount --bind {self.root}/etc/{each} /etc/{each}" for each in self.folders)
        return ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$0" "$@"', *map(str, command)]


class ConfiguredDocker(Configured):
    """dockerd."""

    name = "docker"
    folders = ("docker",)
    programs = ("dockerd", "docker")

    def __init__(self, root: Path, stack: ExitStack) -> None:
        super().__init__(root, stack)
        self._socket = f"unix://{root}/docker.sock"
        self._daemon = self._start()

    def former(self) -> dict[str, str]:
        """See `Configured`."""
        return {"docker/daemon.json": '{"storage-driver": "vfs",\n "max-concurrent-downloads": 2}'}

    def reload(self) -> None:
        """See `Configured`."""
        wanted = json.loads((self.root / "etc/docker/daemon.json").read_text()).get("registry-mirrors", [])
        if not wanted:
            self._daemon.__exit__()
            self._daemon = self._start()
            return
        self._daemon.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + _SECONDS
        while self._mirrors() != [f"{url}/" for url in wanted]:
            assert time.monotonic() < deadline, "dockerd reads its configuration again"
            time.sleep(0.05)

    def pull(self) -> None:
        """See `Configured`."""
        self._run("pull", "--quiet", IMAGE)
        self._run("image", "rm", IMAGE)

    def _start(self) -> Daemon:
        command = [
            "dockerd",
            f"--host={self._socket}",
            f"--data-root={self.root}/data",
            f"--exec-root={self.root}/exec",
        ]
        command += [f"--pidfile={self.root}/pid", "--bridge=none", "--iptables=false", "--ip6tables=false"]
        daemon = self.stack.enter_context(Daemon(self.inside(*command), self.root / "log", STAY_HERE))
        daemon.wait_until(self._answers)
        return daemon

    def _answers(self) -> bool:
        try:
            self._run("version")
        except ProgramFailed:
            return False
        return True

    def _mirrors(self) -> list[str]:
        return list(json.loads(self._run("info", "--format", "{{json .RegistryConfig.Mirrors}}")) or [])

    def _run(self, *command: str) -> str:
        return run("docker", "--host", self._socket, *command, environment=STAY_HERE)


class ConfiguredPodman(Configured):
    """podman."""

    name = "podman"
    folders = ("containers",)
    programs = ("podman",)

    def former(self) -> dict[str, str]:
        """See `Configured`."""
        (self.root / "etc/containers/registries.conf.d").mkdir()
        return {
            "containers/policy.json": '{"default": [{"type": "insecureAcceptAnything"}]}',
            "containers/registries.conf": 'unqualified-search-registries = ["docker.io"]\n',
            "containers/registries.conf.d/office.conf": '[[registry]]\nlocation = "docker.io"\n'
            '[[registry.mirror]]\nlocation = "127.0.0.1:9"\ninsecure = true\n',
        }

    def reload(self) -> None:
        """See `Configured`; there is nothing to do."""

    def pull(self) -> None:
        """See `Configured`."""
        self._run("pull", "--quiet", IMAGE)
        self._run("rmi", "--force", IMAGE)

    def _run(self, *command: str) -> None:
        own = ("--root", self.root / "data", "--runroot", self.root / "run", "--storage-driver", "vfs")
        environment = {"TMPDIR": str(self.root), "HOME": str(self.root), **STAY_HERE}
        run(*self.inside("podman", *own, *command), environment=environment)


class ConfiguredContainerd(Configured):
    """Debian's containerd, asked as Kubernetes asks it where crictl was built, else by ctr."""

    name = "containerd"
    folders = ("containerd",)
    programs = ("containerd", "ctr")
    configuration: ClassVar[str] = (
        '[plugins."io.containerd.grpc.v1.cri".containerd]\nsnapshotter = "native"  # of this machine\n'
    )
    version: ClassVar[int] = 2

    def __init__(self, root: Path, stack: ExitStack) -> None:
        super().__init__(root, stack)
        self._daemon: Daemon | None = None
        self._start()

    def former(self) -> dict[str, str]:
        """See `Configured`."""
        places = f'root = "{self.root}/data"\nstate = "{self.root}/state"\n[grpc]\naddress = "{self._socket}"\n'
        return {"containerd/config.toml": f"version = {self.version}\n{places}{self.configuration}"}

    def reload(self) -> None:
        """See `Configured`."""
        assert self._daemon is not None
        self._daemon.__exit__()
        self._start()

    def pull(self) -> None:
        """See `Configured`."""
        crictl = TOOLS["crictl"].path
        if crictl.exists():
            ends = ("--image-endpoint", f"unix://{self._socket}", "--runtime-endpoint", f"unix://{self._socket}")
            run(crictl, *ends, "pull", IMAGE)
            run(crictl, *ends, "rmi", IMAGE)
        else:
            hosts = ("--snapshotter", "native", "--hosts-dir", f"{self.root}/etc/containerd/certs.d")
            run("ctr", "--address", self._socket, "images", "pull", *hosts, IMAGE, environment=STAY_HERE)
            run("ctr", "--address", self._socket, "images", "rm", "--sync", IMAGE)

    @property
    def _socket(self) -> Path:
        return self.root / "containerd.sock"

    def _start(self) -> None:
        command = self.inside(self.programs[0], "--config", "/etc/containerd/config.toml")
        self._daemon = self.stack.enter_context(Daemon(command, self.root / "log", STAY_HERE))
        self._daemon.wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            run("ctr", "--address", self._socket, "version")
        except ProgramFailed:
            return False
        return True


class ConfiguredContainerd2(ConfiguredContainerd):
    """containerd 2, which reads two folders by default and takes them for one."""

    programs = (str(TOOLS["containerd"].path), "ctr")
    version = 3
    configuration = (
        '[plugins."io.containerd.cri.v1.images"]\nsnapshotter = "native"\n'
        "[plugins.'io.containerd.cri.v1.images'.registry]\n"
        "  config_path = '/etc/containerd/certs.d:/etc/docker/certs.d'\n"
        '[[plugins."io.containerd.transfer.v1.local".unpack_config]]\nplatform = "linux"\nsnapshotter = "native"\n'
    )

    def __init__(self, root: Path, stack: ExitStack) -> None:
        require_tool("containerd")
        require_tool("crictl")
        super().__init__(root, stack)


class ConfiguredOldContainerd(ConfiguredContainerd):
    """Debian's containerd with mirrors in its own file, as before there was a `hosts.toml`."""

    configuration = (
        ConfiguredContainerd.configuration
        + '[plugins."io.containerd.grpc.v1.cri".registry.mirrors]\n'
        + '  [plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\n'
        + '    endpoint = ["http://127.0.0.1:9"]  # the office\n'
    )

    def __init__(self, root: Path, stack: ExitStack) -> None:
        require_tool("crictl")
        super().__init__(root, stack)


class ConfiguredBuildkit(Configured):
    """buildkitd."""

    name = "buildkit"
    folders = ("buildkit",)
    programs = (str(TOOLS["buildkitd"].path), str(TOOLS["buildctl"].path), "runc")

    def __init__(self, root: Path, stack: ExitStack) -> None:
        require_tool("buildkitd")
        require_tool("buildctl")
        super().__init__(root, stack)
        self._daemon: Daemon | None = None
        self._start()

    def former(self) -> dict[str, str]:
        """See `Configured`."""
        return {"buildkit/buildkitd.toml": '[worker.oci]\n  snapshotter = "native"  # of this machine\n'}

    def reload(self) -> None:
        """See `Configured`."""
        assert self._daemon is not None
        self._daemon.__exit__()
        (self.root / "buildkitd.sock").unlink(missing_ok=True)
        self._start()

    def pull(self) -> None:
        """See `Configured`."""
        context = self.root / "context"
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text(f"FROM {IMAGE}\n")
        build = ("build", "--frontend=dockerfile.v0", f"--local=context={context}", f"--local=dockerfile={context}")
        self._buildctl(*build, f"--output=type=oci,dest={self.root}/out.tar", "--no-cache")
        self._buildctl("prune", "--all")

    def _start(self) -> None:
        command = self.inside(self.programs[0], "--root", self.root / "data", "--addr", self._address)
        command += ["--containerd-worker=false", "--oci-worker=true", "--oci-worker-net=host"]
        self._daemon = self.stack.enter_context(Daemon(command, self.root / "log", STAY_HERE))
        self._daemon.wait_until(lambda: (self.root / "buildkitd.sock").exists())

    @property
    def _address(self) -> str:
        return f"unix://{self.root}/buildkitd.sock"

    def _buildctl(self, *command: str) -> None:
        environment = {"DOCKER_CONFIG": str(self.root), **STAY_HERE}
        run(self.programs[1], "--addr", self._address, *command, environment=environment)


RUNTIMES: tuple[type[Configured], ...] = (
    ConfiguredDocker,
    ConfiguredPodman,
    ConfiguredContainerd,
    ConfiguredOldContainerd,
    ConfiguredContainerd2,
    ConfiguredBuildkit,
)
