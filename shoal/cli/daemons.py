"""The daemons: `shoal supernode`, `shoal peer` and `shoal up`."""

from __future__ import annotations

import click

from shoal.cli.frame import Command
from shoal.cli.options import (
    Invocation,
    general_options,
    listen_option,
    store_option,
    supernode_option,
    upstream_option,
)


@click.command(cls=Command, examples=["shoal supernode --listen 10.0.0.1:5090"])
@general_options
@listen_option("supernode", "Where peers reach the supernode.")
@click.pass_obj
def supernode(invocation: Invocation) -> None:
    """Run the supernode, which leads the swarm."""
    from shoal.cli import composition

    composition.keep(composition.supernode, invocation.configuration())


@click.command(cls=Command, examples=["shoal peer --supernode http://10.0.0.1:5090"])
@general_options
@listen_option("proxy", "Where clients reach the proxy.")
@supernode_option
@store_option
@upstream_option
@click.pass_obj
def peer(invocation: Invocation) -> None:
    """Run one node's daemon: the peer and the proxy that its clients use as a mirror."""
    from shoal.cli import composition

    composition.keep(composition.node, invocation.configuration())


@click.command(cls=Command, examples=["shoal up", "shoal up --upstream quay.io=https://quay.io"])
@general_options
@listen_option("proxy", "Where clients reach the proxy.")
@store_option
@upstream_option
@click.pass_obj
def up(invocation: Invocation) -> None:
    """Run everything in one process: a supernode and one node, which mirrors docker.io on 127.0.0.1:5080."""
    from shoal.cli import composition

    composition.keep(composition.everything, invocation.configuration())
