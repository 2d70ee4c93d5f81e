"""`shoal refresh`."""

from __future__ import annotations

import json

import click

from shoal.cli.frame import Command
from shoal.cli.options import Invocation, order_options


@click.command(cls=Command, examples=["shoal refresh docker.io/library/alpine:3.20"])
@order_options
@click.argument("image")
@click.pass_obj
def refresh(invocation: Invocation, image: str, as_json: bool) -> None:
    """Have the origin asked anew for IMAGE's tags, on all nodes.

    The next request for any tag of IMAGE's repository asks the origin, however short ago it was asked.
    """
    from proxy.orders import REFRESH_PATH
    from shoal.cli.orders import about, ask

    answer = ask(invocation, "POST", REFRESH_PATH, about(image))
    click.echo(json.dumps(answer) if as_json else f"{answer['refreshed']}: the origin is asked anew")
