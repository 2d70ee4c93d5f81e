"""Machines on which documents are followed, and Docker Hub for them.

The machines are namespaces (`tests.world.machines`). Docker Hub is another one: a real registry with a certificate that
they trust. What a machine on the internet has and these lack is set up here: the index of Python packages, the
repository of the project, and names of hosts.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench.congestion import chosen
from bench.daemons import Daemon
from bench.netns import Network
from bench.origin import PROGRAM, distribution_config
from tests.acceptance.documents import ROOT, Block
from tests.world.certificates import Authority
from tests.world.images import Layout, made_layer
from tests.world.machines import OverlayMachine
from tests.world.nodes import wait_until
from tests.world.registries import Registry

HUB = "registry-1.docker.io"
MIB = 1 << 20
LAYERS = [6 * MIB, 3 * MIB, MIB]
"""Of each image."""


class Site:
    """Machines and Docker Hub."""

    def __init__(
        self,
        folder: Path,
        packages: Path,
        stack: ExitStack,
        names: Sequence[str],
        images: Sequence[str] = ("library/alpine:3.20",),
    ) -> None:
        """`names` of the machines, and the `images` that Docker Hub has; `packages` is the index of packages."""
        self.shared = folder / "shared"
        """/mnt of each machine."""
        self.shared.mkdir()
        shutil.copytree(packages, self.shared / "wheels")
        subprocess.run(["git", "clone", "--quiet", "--bare", ROOT, self.shared / "shoal.git"], check=True)
        network = stack.enter_context(Network([0] * (len(names) + 1), chosen()))
        *hosts, hub = network.hosts
        authority = Authority(folder / "authority")
        shutil.copy(authority.file, self.shared / "authority.crt")
        _push(folder, images)
        self.hub_log = folder / "hub.log"
        certificate = authority.issue(HUB)
        config = distribution_config(folder / "hub", ":443")
        config["http"] = {
            "addr": ":443",
            "tls": {"certificate": str(certificate.certificate_file), "key": str(certificate.key_file)},
        }
        (folder / "hub.json").write_text(json.dumps(config))
        registry = stack.enter_context(Daemon([PROGRAM, "serve", str(folder / "hub.json")], self.hub_log, host=hub))
        registry.wait_for(443)
        self.machines = {
            name: stack.enter_context(OverlayMachine(host, name, folder / name, self.shared))
            for name, host in zip(names, hosts, strict=True)
        }
        for machine in self.machines.values():
            _furnish(machine, hub.address)

    def follow(self, block: Block, where: Sequence[str], folder: str = "/root") -> str:
        """Type a block on these machines, in a folder of theirs; a daemon is waited for at its port."""
        machines = [self.machines[name] for name in where]
        if "daemon" in block.words:
            port = block.words[block.words.index("daemon") + 1]
            for machine in machines:
                machine.begin(block.text, folder)
                wait_until(partial(_listens, machine, port), f"{block.text} listens")
            return ""
        with ThreadPoolExecutor() as pool:
            return "".join(pool.map(lambda machine: machine.run(block.text, folder).stdout, machines))


def _push(folder: Path, images: Sequence[str]) -> None:
    with ExitStack() as stack:
        registry = Registry(folder / "pushing", storage=folder / "hub").start(stack)
        layout = Layout(folder / "layout")
        for image in images:
            layers = [made_layer(f"{image} {place}", size) for place, size in enumerate(LAYERS)]
            layout.push(layout.image(layers), registry.port, image)


def _furnish(machine: OverlayMachine, hub: str) -> None:
    machine.write("/etc/hosts", f"127.0.0.1 localhost {machine.name}\n{hub} {HUB}\n")
    machine.write("/etc/pip.conf", "[global]\nno-index = true\nfind-links = /mnt/wheels\n")
    machine.run(
        "rm -rf /var/lib/shoal /var/lib/shoal-supernode /etc/shoal /etc/containerd/certs.d\n"
        "git config --global url./mnt/shoal.git.insteadOf https://github.com/shoal/shoal\n"
        "git config --global --add safe.directory '*'\n"
        "cp /mnt/authority.crt /usr/local/share/ca-certificates/ && update-ca-certificates\n"
    )


def _listens(machine: OverlayMachine, port: str) -> bool:
    return machine.run(f"ss -Htln | grep ':{port} '", check=False).returncode == 0
