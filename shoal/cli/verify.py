"""`shoal verify`."""

from __future__ import annotations

import json

import click

from shoal.cli.exits import ExitCode
from shoal.cli.frame import Command
from shoal.cli.options import Invocation, order_options


@click.command(cls=Command, examples=["shoal verify"])
@order_options
@click.pass_obj
def verify(invocation: Invocation, as_json: bool) -> None:
    """Hash all that this node has stored.

    What is wrong goes to quarantine. A running daemon gets again what images need. The exit code is 1 where something
    is wrong and did not come back.
    """
    from shoal.cli.hashing import verified, verified_by_daemon
    from shoal.cli.keeping import through
    from shoal.units import format_size

    answer = through(invocation, verified, lambda: verified_by_daemon(invocation))
    if error := answer.pop("error"):
        raise click.ClickException(str(error))
    left = [digest for digest in answer["wrong"] if digest not in answer["mended"]]
    if as_json:
        click.echo(json.dumps(answer))
    else:
        for digest in answer["wrong"]:
            click.echo(f"{digest} was wrong{'' if digest in left else ', and has come again'}")
        size = format_size(answer["checked_bytes"])
        click.echo(f"{answer['checked']} blobs, {size}: {len(answer['wrong'])} wrong, {len(answer['mended'])} mended")
    if left:
        raise click.exceptions.Exit(ExitCode.FAILED)
