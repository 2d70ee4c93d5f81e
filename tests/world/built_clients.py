"""Real clients that are built from the Go module proxy (`tests.world.tools`)."""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from bench.daemons import Daemon
from tests.world.clients import REGISTRY, STAY_HERE, Client, Containerd, Mirror, docker_config, pulled
from tests.world.programs import run
from tests.world.tools import TOOLS

_LARGEST_STATEMENT = 1 << 20


class Containerd2(Containerd):
    """containerd 2, asked by its own `ctr`."""

    name = "containerd 2"
    programs = (str(TOOLS["containerd"].path), str(TOOLS["ctr"].path))
    configuration = """\
version = 3
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"]
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux"
snapshotter = "native"
"""

    def version(self) -> str:
        """See `Client`; a build from the module proxy does not know it."""
        return TOOLS["containerd"].version


class Containerd2InParts(Containerd2):
    """The same, told to fetch each layer by several ranges at once."""

    name = "containerd 2, layers in parts"
    configuration = (
        Containerd2.configuration
        + """\
[plugins."io.containerd.transfer.v1.local"]
max_concurrent_downloads = 6
concurrent_layer_fetch_buffer = 1048576
"""
    )


class LayoutClient(Client):
    """A client without a daemon that writes an OCI image layout."""

    tool: ClassVar[str]

    def __init__(self, stack: ExitStack) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="client-", ignore_cleanup_errors=True)
        self._folder = Path(stack.enter_context(temporary))
        self._layout = self._folder / "layout"
        self._mirror = Mirror("")

    def configure(self, mirror: Mirror) -> None:
        """See `Client`."""
        self._mirror = mirror
        (self._folder / "config.json").write_text(docker_config({mirror.host: mirror.login} if mirror.login else {}))

    def forget(self) -> None:
        """See `Client`."""
        shutil.rmtree(self._layout, ignore_errors=True)

    def version(self) -> str:
        """See `Client`; a build from the module proxy does not know it."""
        return TOOLS[self.tool].version

    def _run(self, *command: str | Path) -> str:
        configurations = {"DOCKER_CONFIG": str(self._folder), "REGCTL_CONFIG": str(self._folder / "regctl.json")}
        return run(self.programs[0], *command, environment=STAY_HERE | configurations)


class Crane(LayoutClient):
    """`crane pull`."""

    name = "crane"
    tool = "crane"
    programs = (str(TOOLS["crane"].path),)
    takes_artifacts = True
    goes_on_for = ()

    def pull(self, image: str) -> str:
        """See `Client`."""
        self._run("pull", "--insecure", "--format=oci", f"{self._mirror.host}/{image}", self._layout)
        return pulled(self._layout)


class Oras(LayoutClient):
    """`oras copy`, and `oras discover` for referrers."""

    name = "oras"
    tool = "oras"
    programs = (str(TOOLS["oras"].path),)
    takes_artifacts = True
    lists_referrers = True
    goes_on_for = ()

    def configure(self, mirror: Mirror) -> None:
        """See `Client`. It trusts a realm on loopback for a registry of the same name alone."""
        super().configure(replace(mirror, url=mirror.url.replace("127.0.0.1", "localhost")))

    def pull(self, image: str) -> str:
        """See `Client`."""
        source = ("--from-plain-http", f"{self._mirror.host}/{image}")
        self._run("copy", *source, "--to-oci-layout", f"{self._layout}:it")
        return pulled(self._layout)

    def referrers(self, image: str, digest: str) -> list[str]:
        """See `Client`."""
        subject = f"{self._mirror.host}/{image.partition(':')[0]}@{digest}"
        found = json.loads(self._run("discover", "--plain-http", "--format", "json", subject))
        return [str(each["digest"]) for each in found["referrers"]]


class Regctl(LayoutClient):
    """`regctl image copy`, and `regctl artifact list` for referrers."""

    name = "regctl"
    tool = "regctl"
    programs = (str(TOOLS["regctl"].path),)
    takes_artifacts = True
    lists_referrers = True

    def configure(self, mirror: Mirror) -> None:
        """See `Client`."""
        user, password = mirror.login or ("", "")
        own = {"tls": "disabled", "user": user, "pass": password}
        hosts = [host for host in (mirror.host, mirror.origin_host) if host]
        configured = {host: {**own, "priority": priority} for priority, host in enumerate(hosts)}
        configured[REGISTRY] = {"mirrors": hosts, "priority": len(hosts)}
        (self._folder / "regctl.json").write_text(json.dumps({"version": 1, "hosts": configured}))

    def pull(self, image: str) -> str:
        """See `Client`."""
        self._run("image", "copy", f"{REGISTRY}/{image}", f"ocidir://{self._layout}:it")
        return pulled(self._layout)

    def referrers(self, image: str, digest: str) -> list[str]:
        """See `Client`."""
        subject = f"{REGISTRY}/{image.partition(':')[0]}@{digest}"
        found = json.loads(self._run("artifact", "list", "--format", "{{json .Descriptors}}", subject))
        return [str(each["digest"]) for each in found or []]


class Buildkit(LayoutClient):
    """A build by buildkitd that begins and ends with `FROM`."""

    name = "buildkitd"
    tool = "buildkitd"
    programs = (str(TOOLS["buildkitd"].path), str(TOOLS["buildctl"].path), "runc")
    needs_root = True

    def __init__(self, stack: ExitStack) -> None:
        super().__init__(stack)
        self._stack = stack
        self._daemon: Daemon | None = None
        self._address = f"unix://{self._folder}/buildkitd.sock"

    def configure(self, mirror: Mirror) -> None:
        """See `Client`; the daemon is started again."""
        super().configure(mirror)
        if self._daemon is not None:
            self._daemon.__exit__()
        hosts = [host for host in (mirror.host, mirror.origin_host) if host]
        named = ", ".join(f'"{host}"' for host in hosts)
        plain = "".join(f'[registry."{host}"]\nhttp = true\n' for host in hosts)
        configuration = self._folder / "buildkitd.toml"
        configuration.write_text(f'[registry."{REGISTRY}"]\nmirrors = [{named}]\n{plain}')
        command = [self.programs[0], "--config", str(configuration), "--root", str(self._folder / "root")]
        command += ["--addr", self._address, "--containerd-worker=false", "--oci-worker=true"]
        command += ["--oci-worker-snapshotter=native", "--oci-worker-net=host"]
        self._daemon = self._stack.enter_context(Daemon(command, self._folder / "log", STAY_HERE))
        self._daemon.wait_until(self._answers)

    def pull(self, image: str) -> str:
        """See `Client`; the digest is that of the provenance which the build says of its base."""
        context = self._folder / "context"
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text(f"FROM {REGISTRY}/{image}\n")
        built = self._folder / "out.tar"
        build = ("build", "--frontend=dockerfile.v0", f"--local=context={context}", f"--local=dockerfile={context}")
        self._buildctl(*build, f"--output=type=oci,dest={built}", "--opt=attest:provenance=mode=max", "--no-cache")
        return _base_of(built)

    def forget(self) -> None:
        """See `Client`."""
        self._buildctl("prune", "--all")

    def _answers(self) -> bool:
        return (self._folder / "buildkitd.sock").exists()

    def _buildctl(self, *command: str) -> str:
        environment = {"DOCKER_CONFIG": str(self._folder), **STAY_HERE}
        return run(self.programs[1], "--addr", self._address, *command, environment=environment)


def _base_of(built: Path) -> str:
    """The digest of the base, by the provenance in what was built."""
    with tarfile.open(built) as archive:
        files = [
            file for member in archive if member.size < _LARGEST_STATEMENT and (file := archive.extractfile(member))
        ]
        statements = [content for file in files if (content := file.read()).startswith(b'{"_type":')]
    (base,) = json.loads(statements[0])["predicate"]["buildDefinition"]["resolvedDependencies"]
    return "sha256:" + str(base["digest"]["sha256"])


BUILT = (Containerd2, Containerd2InParts, Buildkit, Crane, Oras, Regctl)
