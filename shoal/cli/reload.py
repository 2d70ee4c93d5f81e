"""`shoal reload`."""

from __future__ import annotations

import json

import click

from shoal.cli.frame import Command
from shoal.cli.options import Invocation, cluster_order_options, order_options


@click.command(cls=Command, examples=["shoal reload", "shoal reload --cluster  # the supernode"])
@order_options
@cluster_order_options
@click.pass_obj
def reload(invocation: Invocation, of_cluster: bool, as_json: bool) -> None:
    """Have a daemon read its configuration again.

    It reads the file, the environment and the flags that it was started with. What can be changed while it runs holds
    at once, for transfers that are underway too; what needs a restart is named. A configuration with a mistake changes
    nothing. SIGHUP does the same, and the log then says what is printed here.
    """
    from shoal.cli.orders import the_supernode, this_node
    from shoal.revision import RELOAD_PATH

    daemon = the_supernode(invocation) if of_cluster else this_node(invocation)
    answer = daemon.ask("POST", RELOAD_PATH, {})
    if as_json:
        click.echo(json.dumps(answer))
        return
    if not answer["applied"] and not answer["needs_restart"]:
        click.echo("Nothing of the configuration has changed.")
    for key in answer["applied"]:
        click.echo(f"{key}: holds now")
    for key in answer["needs_restart"]:
        click.echo(f"{key}: holds when the daemon has been started again")
