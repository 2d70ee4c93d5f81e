"""`shoal rm`."""

from __future__ import annotations

import json

import click

from shoal.cli.frame import Command
from shoal.cli.options import Invocation, general_options, json_option, store_option


@click.command(cls=Command, examples=["shoal rm docker.io/library/alpine:3.20"])
@general_options
@store_option
@json_option
@click.argument("image")
@click.pass_obj
def rm(invocation: Invocation, image: str, as_json: bool) -> None:
    """Remove IMAGE from this node's store; layers that other images share come again when they are asked for."""
    from proxy.orders import REMOVE_PATH
    from shoal.cli.orders import about, ask
    from shoal.units import format_size

    answer = ask(invocation, "POST", REMOVE_PATH, about(image))
    size = format_size(answer["bytes"])
    click.echo(json.dumps(answer) if as_json else f"{image}: {len(answer['removed'])} blobs removed, {size}")
