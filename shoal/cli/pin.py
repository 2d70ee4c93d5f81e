"""`shoal pin` and `shoal unpin`."""

from __future__ import annotations

import json

import click

from shoal.cli.frame import Command
from shoal.cli.options import Invocation, order_options


@click.command(cls=Command, examples=["shoal pin docker.io/library/alpine:3.20"])
@order_options
@click.argument("image")
@click.pass_obj
def pin(invocation: Invocation, image: str, as_json: bool) -> None:
    """Keep IMAGE in this node's store until it is unpinned.

    IMAGE is a reference or a digest that is in the store already. What is pinned is what the reference stands for now.
    """
    from proxy.orders import PIN_PATH
    from shoal.cli.keeping import carry_out
    from shoal.units import format_size

    answer = carry_out(invocation, "POST", PIN_PATH, {"image": image}, lambda keeping, _: keeping.pin(image))
    if as_json:
        click.echo(json.dumps(answer))
        return
    click.echo(f"{answer['pinned']}: {answer['digest']} stays, {format_size(answer['bytes'])}")
    if answer["stored"] < answer["named"]:
        click.echo(f"{answer['stored']} of the {answer['named']} blobs that it names are in the store", err=True)


@click.command(cls=Command, examples=["shoal unpin docker.io/library/alpine:3.20"])
@order_options
@click.argument("image")
@click.pass_obj
def unpin(invocation: Invocation, image: str, as_json: bool) -> None:
    """Let IMAGE go when the store needs its room.

    IMAGE is what was pinned, or its digest.
    """
    from proxy.orders import UNPIN_PATH
    from shoal.cli.keeping import carry_out

    answer = carry_out(invocation, "POST", UNPIN_PATH, {"image": image}, lambda keeping, _: keeping.unpin(image))
    click.echo(json.dumps(answer) if as_json else f"{answer['unpinned']}: not pinned any more")
