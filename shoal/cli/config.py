"""`shoal config`: what others are told of this node, and what is no setting of its own."""

from __future__ import annotations

import click

from shoal.cli.frame import Group

_SECTIONS = {
    "Runtimes that pull through this node": {
        "docker": "shoal.cli.runtimes.command:docker",
        "containerd": "shoal.cli.runtimes.command:containerd",
        "podman": "shoal.cli.runtimes.command:podman",
        "crio": "shoal.cli.runtimes.command:crio",
        "k3s": "shoal.cli.runtimes.command:k3s",
        "rke2": "shoal.cli.runtimes.command:rke2",
        "buildkit": "shoal.cli.runtimes.command:buildkit",
    },
    "Forward-proxy mode": {
        "ca": "shoal.cli.authority:ca",
    },
}
"""Where each command is, as in `shoal.cli.commands`."""


@click.group(
    cls=Group,
    sections=_SECTIONS,
    examples=[
        "sudo shoal config docker --write",
        "shoal config containerd --check",
        "shoal config ca > shoal-ca.crt",
    ],
)
def config() -> None:
    """Tell docker, containerd and others to pull through this node."""
