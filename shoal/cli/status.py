"""`shoal status`."""

from __future__ import annotations

import json

import click

from shoal.cli.frame import Command
from shoal.cli.options import Invocation, order_options


@click.command(cls=Command, examples=["shoal status", "shoal status --json"])
@order_options
@click.pass_obj
def status(invocation: Invocation, as_json: bool) -> None:
    """Show how this node does.

    Whether its supernode is connected and its store works, and its upstreams with the rate limits that they tell.
    """
    from proxy.orders import STATUS_PATH
    from shoal.cli.orders import ask
    from shoal.cli.tables import show

    answer = ask(invocation, "GET", STATUS_PATH)
    if as_json:
        click.echo(json.dumps(answer))
        return
    click.echo(f"supernode: {'connected' if answer['supernode_connected'] else 'none'}")
    if answer["store_fault"]:
        click.echo(f"store: nothing is kept ({answer['store_fault']})")
    rows = []
    for upstream in answer["upstreams"]:
        cells = ["" if cell is None else str(cell) for cell in (upstream["remaining"], upstream["limit"])]
        rows.append(
            [upstream["registry"], *cells, f"{upstream['quiet_seconds']:.0f} s" if upstream["quiet_seconds"] else ""]
        )
    show(("upstream", "requests left", "of", "left alone for"), rows)
