"""The real clients, each with its own folders: docker, containerd, podman and skopeo."""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench.daemons import Daemon
from tests.world.nodes import Node
from tests.world.programs import run


class Skopeo:
    """`skopeo copy` to an OCI layout."""

    def __init__(self, folder: Path) -> None:
        self._layout = folder / "layout"

    def pull(self, node: Node, image: str) -> str:
        """Pull `image` (`registry/name:tag`) through a node; returns the manifest's digest in the client."""
        source = f"docker://127.0.0.1:{node.proxy_port}/{image}"
        run("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--all", source, f"oci:{self._layout}:it")
        (entry,) = json.loads((self._layout / "index.json").read_text())["manifests"]
        return str(entry["digest"])

    def blobs(self) -> set[str]:
        """What was written."""
        return {f"sha256:{path.name}" for path in (self._layout / "blobs/sha256").iterdir()}


class Podman:
    """`podman pull` with a mirror in `registries.conf`."""

    def __init__(self, stack: ExitStack) -> None:
        # it takes no long paths
        self._folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="podman-", ignore_cleanup_errors=True))
        )

    def pull(self, node: Node, registry: str, image: str) -> str:
        """Pull `image` (`name:tag`) of `registry` through a node; returns its digest in the client."""
        configuration = self._folder / "registries.conf"
        configuration.write_text(
            f'[[registry]]\nlocation = "{registry}"\n[[registry.mirror]]\n'
            f'location = "127.0.0.1:{node.proxy_port}/{registry}"\ninsecure = true\n'
        )
        policy = self._folder / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        root = ("--root", self._folder / "root", "--runroot", self._folder / "run", "--storage-driver", "vfs")
        environment = {"CONTAINERS_REGISTRIES_CONF": str(configuration), "TMPDIR": str(self._folder)}
        pull = ("pull", "--quiet", "--signature-policy", policy, f"{registry}/{image}")
        run("podman", *root, *pull, environment=environment)
        digests = run("podman", *root, "images", "--format", "{{.Digest}}", environment=environment)
        return digests.strip()


class Containerd:
    """A containerd of its own, asked by `ctr`."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._socket = folder / "containerd.sock"
        configuration = folder / "config.toml"
        configuration.write_text(
            f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{self._socket}"\n'
        )
        daemon = stack.enter_context(Daemon(["containerd", "--config", str(configuration)], folder / "log"))
        daemon.wait_until(lambda: self._socket.exists())

    def pull(self, node: Node, registry: str, image: str) -> str:
        """Pull `image` (`name:tag`) of `registry` through a node; returns its digest in the client."""
        hosts = self._folder / "hosts" / registry
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").write_text(
            f'server = "https://{registry}"\n[host."{node.url}"]\ncapabilities = ["pull", "resolve"]\n'
        )
        ctr = ("ctr", "--address", self._socket)
        pull = ("images", "pull", "--snapshotter", "native", "--hosts-dir", self._folder / "hosts")
        run(*ctr, *pull, f"{registry}/{image}")
        line = run(*ctr, "images", "list", f"name=={registry}/{image}").splitlines()[1]
        return next(word for word in line.split() if word.startswith("sha256:"))


class Docker:
    """A dockerd of its own, whose only mirror is a node; it pulls as from docker.io."""

    def __init__(self, folder: Path, node: Node, stack: ExitStack) -> None:
        self._address = f"unix://{folder}/docker.sock"
        configuration = folder / "daemon.json"
        configuration.write_text("{}")
        command = [
            "dockerd",
            f"--config-file={configuration}",
            f"--data-root={folder}/root",
            f"--exec-root={folder}/exec",
            f"--pidfile={folder}/pid",
            f"--host={self._address}",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--storage-driver=vfs",
            f"--registry-mirror={node.url}",
        ]
        daemon = stack.enter_context(Daemon(command, folder / "log", {"TMPDIR": str(folder)}))
        daemon.wait_until(lambda: (folder / "docker.sock").exists())
        self._wait()

    def _wait(self) -> None:
        for _ in range(100):
            try:
                run("docker", "--host", self._address, "version")
            except AssertionError:
                time.sleep(0.1)
            else:
                return

    def pull(self, image: str) -> str:
        """Pull `image` (`name:tag`) of docker.io; returns its digest in the client."""
        run("docker", "--host", self._address, "pull", "--quiet", image, environment={"HOME": os.devnull})
        digests = json.loads(run("docker", "--host", self._address, "image", "inspect", image))[0]["RepoDigests"]
        return str(digests[0]).partition("@")[2]
