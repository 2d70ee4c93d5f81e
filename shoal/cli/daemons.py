"""The daemons: `shoal supernode`, `shoal peer` and `shoal up`."""

from __future__ import annotations

import click

from shoal.cli.frame import Command
from shoal.cli.options import (
    Invocation,
    cluster_options,
    general_options,
    node_options,
    supernode_option,
    supernode_options,
)


@click.command(
    cls=Command,
    examples=[
        "shoal supernode  # for peers of this machine",
        "shoal supernode --listen 0.0.0.0:5090 --secret-file /etc/shoal/secret",
    ],
)
@general_options
@supernode_options(own=True)
@cluster_options
@click.pass_obj
def supernode(invocation: Invocation) -> None:
    """Run the supernode, which leads the swarm."""
    configuration = invocation.configuration()

    from shoal.cli import composition

    composition.keep(composition.supernode, configuration, invocation.read)


@click.command(
    cls=Command,
    examples=[
        "shoal peer  # without a supernode: a pull-through cache of docker.io on one node",
        "shoal peer --supernode http://10.0.0.1:5090 --secret-file /etc/shoal/secret",
        "shoal peer --upstream quay.io --upstream registry.example=http://registry.example:5000",
    ],
)
@supernode_option
@node_options
@click.pass_obj
def peer(invocation: Invocation) -> None:
    """Run one node's daemon: its peer, and its clients' mirror.

    The mirror listens on 127.0.0.1:5080, where clients of this machine reach it, and stands for docker.io. Other peers
    reach the node on port 5081, at all addresses where the supernode is on another machine.
    """
    configuration = invocation.configuration()

    from shoal.cli import composition

    composition.keep(composition.node, configuration, invocation.read)


@click.command(
    cls=Command,
    examples=[
        "shoal up  # a mirror of docker.io on 127.0.0.1:5080",
        "shoal up --upstream quay.io --cache-size 200GiB",
        "shoal up --supernode-listen 10.0.0.1 --peer-listen 10.0.0.1 --secret-file /etc/shoal/secret",
    ],
)
@node_options
@supernode_options(own=False)
@click.pass_obj
def up(invocation: Invocation) -> None:
    """Run a supernode and one node in one process.

    The node mirrors docker.io on 127.0.0.1:5080. Nodes of other machines may join where both the supernode and the
    node's peer listen at an address that is reached from there.
    """
    configuration = invocation.configuration()

    from shoal.cli import composition

    composition.keep(composition.everything, configuration, invocation.read)
