"""A newcomer with two machines, who types what docs/quickstart.md says and nothing else.

What the machines of `tests.acceptance.site` lack besides is set up here: ssh, docker and containerd, and a `systemctl`,
since nothing runs systemd in a namespace.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.origin import PROGRAM, logged_traffic
from tests.acceptance.documents import ROOT, Block, typed
from tests.acceptance.site import LAYERS, MIB, Site
from tests.world.machines import OverlayMachine
from tests.world.programs import require, require_root

DOCUMENT = ROOT / "docs/quickstart.md"
MACHINES = ("first", "second")

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


def _furnish(machine: OverlayMachine) -> None:
    machine.write("/usr/local/sbin/systemctl", SYSTEMCTL, mode=0o755)
    machine.write("/etc/docker/daemon.json", json.dumps(DOCKER))
    machine.write("/root/.ssh/config", "StrictHostKeyChecking accept-new\nIdentityFile /mnt/key\n")
    machine.run(
        "cp /mnt/key.pub /root/.ssh/authorized_keys && mkdir -p /run/sshd && ssh-keygen -A && /usr/sbin/sshd\n"
        "systemctl restart docker && systemctl restart containerd"
    )


def _where(block: Block) -> Sequence[str]:
    return MACHINES if block.words[0] == "both" else block.words[:1]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("runtime", ["docker", "containerd"])
def test_two_machines_share_an_image_after_the_quick_start(runtime: str, tmp_path: Path, packages: Path) -> None:
    require_root()
    require("dockerd", "containerd", "git", "scp", "sshd", PROGRAM)
    other = {"docker": "containerd", "containerd": "docker"}[runtime]
    followed = [block for block in typed(DOCUMENT) if other not in block.words]
    with ExitStack() as stack:
        site = Site(tmp_path, packages, stack, MACHINES)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", site.shared / "key"], check=True)
        for machine in site.machines.values():
            _furnish(machine)
        said = [site.follow(block, _where(block)) for block in followed]
    assert "100% came from one neighbour" in said[-1]
    assert "0 errors" in said[-1]
    _, sent = logged_traffic(site.hub_log)
    assert sent < 1.02 * sum(LAYERS) + MIB / 4, "each byte left Docker Hub once"
