"""`shoal reload`."""

from __future__ import annotations

import json

import click

from shoal.cli.frame import Command
from shoal.cli.options import Invocation, general_options, json_option, store_option


@click.command(cls=Command, examples=["shoal reload"])
@general_options
@store_option
@json_option
@click.pass_obj
def reload(invocation: Invocation, as_json: bool) -> None:
    """Have this node's daemon read its configuration again, as SIGHUP does.

    It reads the file, the environment and the flags that it was started with. What can be changed while it runs holds
    at once, for transfers that are underway too; what needs a restart is named. A configuration with a mistake changes
    nothing.
    """
    from shoal.cli.orders import ask
    from shoal.revision import RELOAD_PATH

    answer = ask(invocation, "POST", RELOAD_PATH, {})
    if as_json:
        click.echo(json.dumps(answer))
        return
    if not answer["applied"] and not answer["needs_restart"]:
        click.echo("Nothing of the configuration has changed.")
    for key in answer["applied"]:
        click.echo(f"{key}: holds now")
    for key in answer["needs_restart"]:
        click.echo(f"{key}: holds when the daemon has been started again")
