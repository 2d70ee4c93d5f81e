"""`shoal refresh`."""

from __future__ import annotations

import json

import click

from shoal.cli.frame import Command
from shoal.cli.options import Invocation, general_options, json_option, store_option


@click.command(cls=Command, examples=["shoal refresh docker.io/library/alpine:3.20"])
@general_options
@store_option
@json_option
@click.argument("image")
@click.pass_obj
def refresh(invocation: Invocation, image: str, as_json: bool) -> None:
    """Have the origin asked anew for all tags of IMAGE's repository, on all nodes."""
    from proxy.orders import REFRESH_PATH
    from shoal.cli.orders import about, ask

    answer = ask(invocation, "POST", REFRESH_PATH, about(image))
    click.echo(json.dumps(answer) if as_json else f"{answer['refreshed']}: the origin is asked anew")
