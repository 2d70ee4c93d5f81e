"""A newcomer with two machines, who types what docs/quickstart.md says and nothing else.

The machines are namespaces (`tests.world.machines`). Docker Hub is a third one: a real registry with a certificate that
they trust. What a machine on the internet has and these lack is set up here: the index of Python packages, names of
hosts, ssh, and a `systemctl`, since nothing runs systemd in a namespace.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from bench.congestion import chosen
from bench.daemons import Daemon
from bench.netns import Network
from bench.origin import PROGRAM, distribution_config, logged_traffic
from tests.acceptance.documents import ROOT, Block, typed
from tests.world.certificates import Authority
from tests.world.images import Layout, made_layer
from tests.world.machines import Machine
from tests.world.nodes import wait_until
from tests.world.programs import require, require_root
from tests.world.registries import Registry

DOCUMENT = ROOT / "docs/quickstart.md"
HUB = "registry-1.docker.io"
MIB = 1 << 20
LAYERS = [6 * MIB, 3 * MIB, MIB]

SYSTEMCTL = """#!/bin/bash
# stands in for systemd: starts docker and containerd anew, and waits until they are there
set -e
[ "$1" = restart ]
case "$2" in
docker) daemon=dockerd; asks="docker info" ;;
containerd) daemon=containerd; asks="ctr version" ;;
*) exit 5 ;;
esac
pkill -x $daemon && while pgrep -x $daemon >/dev/null; do sleep 0.1; done
setsid $daemon >/mnt/$HOSTNAME-$daemon.log 2>&1 </dev/null &
for _ in $(seq 100); do $asks >/dev/null 2>&1 && exit 0; sleep 0.2; done
exit 1
"""
DOCKER = {"bridge": "none", "iptables": False, "ip6tables": False}
"""What docker needs to run in a namespace; the document's commands have to leave it alone."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages that the project needs, as an index has them; kept for as long as the lock is the same."""
    lock = (ROOT / "requirements.lock").read_bytes()
    kept = ROOT / ".cache" / f"wheels-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not kept.exists():
        made = tmp_path_factory.mktemp("wheels")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--dest", str(made)]
        subprocess.run([*pip, "setuptools", "wheel", "click-man", str(ROOT)], check=True, timeout=300)
        kept.parent.mkdir(exist_ok=True)
        shutil.copytree(made, kept)
    return kept


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Site:
    """Two machines and Docker Hub."""

    def __init__(self, folder: Path, packages: Path, stack: ExitStack) -> None:
        self.shared = folder / "shared"
        self.shared.mkdir()
        shutil.copytree(packages, self.shared / "wheels")
        subprocess.run(["git", "clone", "--quiet", "--bare", ROOT, self.shared / "shoal.git"], check=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.shared / "key"], check=True)
        network = stack.enter_context(Network([0, 0, 0], chosen()))
        *hosts, hub = network.hosts
        authority = Authority(folder / "authority")
        shutil.copy(authority.file, self.shared / "authority.crt")
        self.digest = self._hub(folder, stack, authority)
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
        names = ["first", "second"]
        self.machines = {
            name: stack.enter_context(Machine(host, name, folder / name, self.shared))
            for name, host in zip(names, hosts, strict=True)
        }
        for machine in self.machines.values():
            self._furnish(machine, hub.address)

    def _hub(self, folder: Path, stack: ExitStack, authority: Authority) -> str:
        with ExitStack() as pushing:
            registry = Registry(folder / "pushing", storage=folder / "hub").start(pushing)
            layout = Layout(folder / "layout")
            image = layout.image([made_layer(f"file{place}", size) for place, size in enumerate(LAYERS)])
            return layout.push(image, registry.port, "library/alpine:3.20")

    def _furnish(self, machine: Machine, hub: str) -> None:
        machine.write("/etc/hosts", f"127.0.0.1 localhost {machine.name}\n{hub} {HUB}\n")
        machine.write("/etc/pip.conf", "[global]\nno-index = true\nfind-links = /mnt/wheels\n")
        machine.write("/usr/local/sbin/systemctl", SYSTEMCTL, mode=0o755)
        machine.write("/etc/docker/daemon.json", json.dumps(DOCKER))
        machine.write("/root/.ssh/config", "StrictHostKeyChecking accept-new\nIdentityFile /mnt/key\n")
        machine.run(
            "rm -rf /var/lib/shoal /etc/shoal /etc/containerd/certs.d\n"
            "git config --global url./mnt/shoal.git.insteadOf https://github.com/shoal/shoal\n"
            "git config --global --add safe.directory '*'\n"
            "cp /mnt/authority.crt /usr/local/share/ca-certificates/ && update-ca-certificates\n"
            "cp /mnt/key.pub /root/.ssh/authorized_keys && mkdir -p /run/sshd && ssh-keygen -A && /usr/sbin/sshd\n"
            "systemctl restart docker && systemctl restart containerd"
        )

    def follow(self, block: Block) -> str:
        """Type a block where it says; a daemon is waited for at its port."""
        where, *words = block.words
        machines = list(self.machines.values()) if where == "both" else [self.machines[where]]
        if "daemon" in words:
            for machine in machines:
                machine.begin(block.text)
                wait_until(partial(_listens, machine, words[words.index("daemon") + 1]), f"{block.text} listens")
            return ""
        with ThreadPoolExecutor() as pool:
            return "".join(pool.map(lambda machine: machine.run(block.text).stdout, machines))


def _listens(machine: Machine, port: str) -> bool:
    return machine.run(f"ss -Htln | grep ':{port} '", check=False).returncode == 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("runtime", ["docker", "containerd"])
def test_two_machines_share_an_image_after_the_quick_start(
    runtime: str, tmp_path: Path, packages: Path, stack: ExitStack
) -> None:
    require_root()
    require("dockerd", "containerd", "git", "scp", "sshd", PROGRAM)
    site = Site(tmp_path, packages, stack)
    other = {"docker": "containerd", "containerd": "docker"}[runtime]
    followed = [block for block in typed(DOCUMENT) if other not in block.words]
    said = [site.follow(block) for block in followed]
    assert "100% came from one neighbour" in said[-1]
    assert "0 errors" in said[-1]
    _, sent = logged_traffic(site.hub_log)
    assert sent < 1.02 * sum(LAYERS) + MIB / 4, "each byte left Docker Hub once"
