"""The real clients, each with its own folders and its own daemon where it needs one."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench.daemons import Daemon
from tests.world.programs import ProgramFailed, require, require_root, run

REGISTRY = "docker.io"
"""Whose images they pull: the only one that docker asks mirrors for."""

STAY_HERE = {"HTTPS_PROXY": "http://127.0.0.1:9"}
"""Environment of clients and their daemons: what they would ask the real registry for fails at once, since nobody
listens there."""

_REF_NAME = "org.opencontainers.image.ref.name"
_RELOAD_SECONDS = 10.0


@dataclass(frozen=True)
class Mirror:
    """What a client is told of where to pull from."""

    url: str
    """A node's proxy."""
    origin: str = ""
    """Where it goes on to when the mirror fails; empty: to the real registry of that name, which no test reaches."""
    login: tuple[str, str] | None = None
    """The client's own name and password."""
    names_registry: bool = True
    """Whether a client that can say the registry in the path does so. The tokens that it asks for are then for a
    repository of that whole name, which no token server knows."""

    @property
    def host(self) -> str:
        return self.url.partition("://")[2]

    @property
    def origin_host(self) -> str:
        return self.origin.partition("://")[2]


class Client(ABC):
    """A client and what it keeps. It pulls images of `REGISTRY`."""

    name: ClassVar[str]
    programs: ClassVar[tuple[str, ...]]
    """What it needs to be installed."""
    needs_root: ClassVar[bool] = False
    goes_on_for: ClassVar[tuple[str, ...]] = ("manifests", "blobs")
    """For what it goes on from a mirror that fails to the origin; one without mirrors is pointed at the node itself."""

    takes_artifacts: ClassVar[bool] = False
    """Whether it pulls what is no image, without unpacking it."""
    lists_referrers: ClassVar[bool] = False
    """Whether it has a command for what belongs to an image."""

    @abstractmethod
    def __init__(self, stack: ExitStack) -> None:
        """Start what it needs; all ends with `stack`."""

    @classmethod
    def require(cls) -> None:
        """Skip or fail a test where this client cannot run."""
        require(*cls.programs)
        if cls.needs_root:
            require_root()

    @abstractmethod
    def configure(self, mirror: Mirror) -> None:
        """Pull by way of `mirror` from now on."""

    @abstractmethod
    def pull(self, image: str) -> str:
        """Pull `image` (`name:tag`); returns the digest that the client then knows; raises `ProgramFailed`."""

    def referrers(self, image: str, digest: str) -> list[str]:
        """The digests of what names this manifest of `image` as its subject."""
        raise NotImplementedError

    @abstractmethod
    def forget(self) -> None:
        """Drop all that was pulled, so that it has to be pulled again."""

    @abstractmethod
    def version(self) -> str:
        """As it says itself."""


def docker_config(logins: Mapping[str, tuple[str, str]]) -> str:
    """Docker's `config.json`, which others read too, with logins by host."""
    auths = {host: {"auth": base64.b64encode(":".join(login).encode()).decode()} for host, login in logins.items()}
    return json.dumps({"auths": auths})


def pulled(layout: Path) -> str:
    """The digest of what an OCI image layout calls `it`."""
    entries = json.loads((layout / "index.json").read_text())["manifests"]
    named = [each for each in entries if each.get("annotations", {}).get(_REF_NAME) == "it"]
    (entry,) = named or entries  # crane gives it no name
    return str(entry["digest"])


class ContainersTool(Client):
    """What podman and skopeo have in common: `registries.conf` and their file of logins."""

    goes_on_for = ("manifests",)

    def __init__(self, stack: ExitStack) -> None:
        # podman takes no long paths
        temporary = tempfile.TemporaryDirectory(prefix="client-", ignore_cleanup_errors=True)
        self._folder = Path(stack.enter_context(temporary))
        self._policy = self._folder / "policy.json"
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self._logins = self._folder / "auth.json"
        self._environment = {
            "CONTAINERS_REGISTRIES_CONF": str(self._folder / "registries.conf"),
            "TMPDIR": str(self._folder),
            "REGISTRY_AUTH_FILE": str(self._logins),
            "HOME": str(self._folder),
            **STAY_HERE,
        }

    def configure(self, mirror: Mirror) -> None:
        """See `Client`."""
        place = f"{mirror.host}/{REGISTRY}" if mirror.names_registry else mirror.host
        origin = f'"{mirror.origin_host}"\ninsecure = true' if mirror.origin else f'"{REGISTRY}"'
        (self._folder / "registries.conf").write_text(
            f'[[registry]]\nprefix = "{REGISTRY}"\nlocation = {origin}\n'
            f'[[registry.mirror]]\nlocation = "{place}"\ninsecure = true\n'
        )
        hosts = [host for host in (mirror.host, mirror.origin_host) if host]
        self._logins.write_text(docker_config(dict.fromkeys(hosts, mirror.login) if mirror.login else {}))


class Skopeo(ContainersTool):
    """`skopeo copy` to an OCI layout."""

    name = "skopeo"
    programs = ("skopeo",)
    takes_artifacts = True

    def __init__(self, stack: ExitStack) -> None:
        super().__init__(stack)
        self._layout = self._folder / "layout"

    def pull(self, image: str) -> str:
        """See `Client`; all platforms of an index."""
        source = f"docker://{REGISTRY}/{image}"
        copy = ("copy", "--all", "--preserve-digests", source, f"oci:{self._layout}:it")
        options = ("--policy", self._policy, "--registries-conf", self._folder / "registries.conf")
        run("skopeo", *options, *copy, environment=self._environment)
        return pulled(self._layout)

    def forget(self) -> None:
        """See `Client`."""
        shutil.rmtree(self._layout, ignore_errors=True)

    def version(self) -> str:
        """See `Client`."""
        return run("skopeo", "--version").split()[-1]

    def blobs(self) -> set[str]:
        """What was written."""
        return {f"sha256:{path.name}" for path in (self._layout / "blobs/sha256").iterdir()}


class Podman(ContainersTool):
    """`podman pull`."""

    name = "podman"
    programs = ("podman",)
    needs_root = True

    def pull(self, image: str) -> str:
        """See `Client`."""
        self._run("pull", "--quiet", "--signature-policy", self._policy, f"{REGISTRY}/{image}")
        return self._run("image", "inspect", "--format", "{{.Digest}}", f"{REGISTRY}/{image}").strip()

    def forget(self) -> None:
        """See `Client`."""
        self._run("rmi", "--all", "--force")

    def version(self) -> str:
        """See `Client`."""
        return run("podman", "--version").split()[-1]

    def _run(self, *command: str | Path) -> str:
        root = ("--root", self._folder / "root", "--runroot", self._folder / "run", "--storage-driver", "vfs")
        return run("podman", *root, *command, environment=self._environment)


class Containerd(Client):
    """A containerd of its own, asked by `ctr`."""

    name = "containerd 1.6"
    programs = ("containerd", "ctr")
    needs_root = True
    configuration: ClassVar[str] = 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'

    def __init__(self, stack: ExitStack) -> None:
        # the path of a Unix socket is at most 107 bytes long
        temporary = tempfile.TemporaryDirectory(prefix="client-", ignore_cleanup_errors=True)
        self._folder = folder = Path(stack.enter_context(temporary))
        self._user: tuple[str, ...] = ()
        daemon, self._ctr = self.programs
        self.root = folder / "root"
        self._socket = folder / "containerd.sock"
        configuration = folder / "config.toml"
        places = f'root = "{self.root}"\nstate = "{folder}/state"\n'
        configuration.write_text(f'{places}{self.configuration}[grpc]\naddress = "{self._socket}"\n')
        started = stack.enter_context(Daemon([daemon, "--config", str(configuration)], folder / "log", STAY_HERE))
        started.wait_until(lambda: self._socket.exists())

    def configure(self, mirror: Mirror) -> None:
        """See `Client`."""
        hosts = self._folder / "hosts" / REGISTRY
        hosts.mkdir(parents=True, exist_ok=True)
        (hosts / "hosts.toml").write_text(
            f'server = "{mirror.origin or f"https://{REGISTRY}"}"\n'
            f'[host."{mirror.url}"]\ncapabilities = ["pull", "resolve"]\n'
        )
        self._user = ("--user", ":".join(mirror.login)) if mirror.login else ()

    def pull(self, image: str) -> str:
        """See `Client`."""
        pull = ("images", "pull", "--snapshotter", "native", "--hosts-dir", str(self._folder / "hosts"))
        self._run(*pull, *self._user, f"{REGISTRY}/{image}")
        line = self._run("images", "list", f"name=={REGISTRY}/{image}").splitlines()[1]
        return next(word for word in line.split() if word.startswith("sha256:"))

    def forget(self) -> None:
        """See `Client`."""
        for image in self._run("images", "list", "--quiet").split():
            self._run("images", "remove", "--sync", image)

    def version(self) -> str:
        """See `Client`."""
        return run(self.programs[0], "--version").split()[2]

    def _run(self, *command: str | Path) -> str:
        return run(self._ctr, "--address", self._socket, *command, environment=STAY_HERE)


class Docker(Client):
    """A dockerd of its own."""

    name = "docker"
    programs = ("dockerd", "docker")
    needs_root = True

    def __init__(self, stack: ExitStack) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="client-", ignore_cleanup_errors=True)
        self._folder = folder = Path(stack.enter_context(temporary))
        self._address = f"unix://{folder}/docker.sock"
        self._configuration = folder / "daemon.json"
        self._configuration.write_text("{}")
        command = [
            "dockerd",
            f"--config-file={self._configuration}",
            f"--data-root={folder}/root",
            f"--exec-root={folder}/exec",
            f"--pidfile={folder}/pid",
            f"--host={self._address}",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--storage-driver=vfs",
        ]
        self._daemon = stack.enter_context(Daemon(command, folder / "log", {"TMPDIR": str(folder), **STAY_HERE}))
        self._daemon.wait_until(self._answers)

    def configure(self, mirror: Mirror) -> None:
        """See `Client`; the daemon reads its mirrors again."""
        mirrors = [f"{url}/" for url in (mirror.url, mirror.origin) if url]
        self._configuration.write_text(json.dumps({"registry-mirrors": mirrors}))
        (self._folder / "config.json").write_text(
            docker_config({"https://index.docker.io/v1/": mirror.login} if mirror.login else {})
        )
        self._daemon.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + _RELOAD_SECONDS
        while json.loads(self._run("info", "--format", "{{json .RegistryConfig.Mirrors}}")) != mirrors:
            assert time.monotonic() < deadline, "dockerd reads its configuration again"
            time.sleep(0.05)

    def pull(self, image: str) -> str:
        """See `Client`."""
        self._run("pull", "--quiet", f"{REGISTRY}/{image}")
        digests = json.loads(self._run("image", "inspect", f"{REGISTRY}/{image}"))[0]["RepoDigests"]
        return str(digests[0]).partition("@")[2]

    def forget(self) -> None:
        """See `Client`."""
        self._run("image", "prune", "--all", "--force")

    def version(self) -> str:
        """See `Client`."""
        return self._run("version", "--format", "{{.Server.Version}}").strip()

    def _answers(self) -> bool:
        try:
            self._run("version")
        except ProgramFailed:
            return False
        return True

    def _run(self, *command: str) -> str:
        options = ("--config", self._folder, "--host", self._address)
        return run("docker", *options, *command, environment={"HOME": str(self._folder), **STAY_HERE})


DEBIAN = (Docker, Containerd, Podman, Skopeo)
