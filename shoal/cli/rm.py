"""`shoal rm`."""

from __future__ import annotations

import json

import click

from shoal.cli.frame import Command
from shoal.cli.options import Invocation, order_options


@click.command(cls=Command, examples=["shoal rm docker.io/library/alpine:3.20"])
@order_options
@click.argument("image")
@click.pass_obj
def rm(invocation: Invocation, image: str, as_json: bool) -> None:
    """Remove IMAGE from this node's store.

    Layers that other images share come again when they are asked for. What pins keep stays.
    """
    from proxy.orders import REMOVE_PATH
    from shoal.cli.orders import about, ask
    from shoal.units import format_size

    answer = ask(invocation, "POST", REMOVE_PATH, about(image))
    size = format_size(answer["bytes"])
    click.echo(json.dumps(answer) if as_json else f"{image}: {len(answer['removed'])} blobs removed, {size}")
