"""All runtimes that Shoal can tell of a mirror."""

from __future__ import annotations

from shoal.cli.runtimes.buildkit import Buildkit
from shoal.cli.runtimes.containerd import Containerd
from shoal.cli.runtimes.docker import Docker
from shoal.cli.runtimes.k3s import K3s, Rke2
from shoal.cli.runtimes.registries import CriO, Podman
from shoal.cli.runtimes.runtime import Runtime

RUNTIMES: dict[str, Runtime] = {
    each.name: each for each in (Docker(), Containerd(), Podman(), CriO(), K3s(), Rke2(), Buildkit())
}
