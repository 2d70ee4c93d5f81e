"""The table of commands of `shoal`."""

from __future__ import annotations

import click

from shoal.cli.frame import Program
from shoal.cli.options import Invocation, general_options

_SECTIONS = {
    "Daemons": {
        "peer": "shoal.cli.daemons:peer",
        "supernode": "shoal.cli.daemons:supernode",
        "up": "shoal.cli.daemons:up",
    },
    "Setting up": {
        "config": "shoal.cli.config:config",
        "completion": "shoal.cli.completion:completion",
    },
    "Images": {
        "pull": "shoal.cli.pull:pull",
        "images": "shoal.cli.images:images",
        "pin": "shoal.cli.pin:pin",
        "unpin": "shoal.cli.pin:unpin",
        "refresh": "shoal.cli.refresh:refresh",
        "rm": "shoal.cli.rm:rm",
    },
    "Preheating": {
        "preheat": "shoal.cli.preheat:preheat",
        "preheats": "shoal.cli.preheat:preheats",
    },
    "A node and its store": {
        "status": "shoal.cli.status:status",
        "explain": "shoal.cli.explain:explain",
        "doctor": "shoal.cli.doctor.command:doctor",
        "limit": "shoal.cli.limit:limit",
        "reload": "shoal.cli.reload:reload",
        "gc": "shoal.cli.gc:gc",
        "verify": "shoal.cli.verify:verify",
    },
}
"""Where each command is. What it needs to run is imported inside its function, so that help comes at once."""


@click.group(
    cls=Program,
    sections=_SECTIONS,
    invoke_without_command=True,
    examples=[
        "shoal up  # a supernode and one node, which mirrors docker.io on 127.0.0.1:5080",
        "shoal pull docker.io/library/alpine:3.20",
        "shoal pull --help",
    ],
)
@general_options
@click.version_option(package_name="shoal", message="shoal %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Pulls container images through a swarm of nodes.

    Every setting is a key of the configuration file, an environment variable (SHOAL_PEER__PORT for port of the table
    [peer]) that goes before it, and for some a flag that goes before both.
    """
    if context.invoked_subcommand is None:
        if context.ensure_object(Invocation).print_config:
            context.ensure_object(Invocation).configuration()
        click.echo(context.get_help())
