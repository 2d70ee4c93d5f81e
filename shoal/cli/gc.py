"""`shoal gc`."""

from __future__ import annotations

import json

import click

from shoal.cli.frame import Command
from shoal.cli.options import Invocation, order_options


@click.command(cls=Command, examples=["shoal gc --dry-run", "shoal gc"])
@order_options
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.pass_obj
def gc(invocation: Invocation, dry_run: bool, as_json: bool) -> None:
    """Remove from this node's store what is not needed.

    That is what no image needs, and the images that were used least recently down to the low watermark
    (peer.cache.low). Pinned images and those in use stay.
    """
    from proxy.orders import SWEEP_PATH
    from shoal.cli.keeping import carry_out
    from shoal.units import format_size

    answer = carry_out(invocation, "POST", SWEEP_PATH, {"dry_run": dry_run}, lambda keeping, _: keeping.sweep(dry_run))
    if as_json:
        click.echo(json.dumps(answer))
        return
    for each in answer["removed"]:
        click.echo(f"{each['digest']} {each['reason']}, {len(each['blobs'])} blobs, {format_size(each['bytes'])}")
    click.echo(f"{format_size(answer['bytes'])} {'would be' if dry_run else 'were'} removed")
