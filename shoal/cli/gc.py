"""`shoal gc`."""

from __future__ import annotations

import json

import click

from shoal.cli.frame import Command
from shoal.cli.options import Invocation, general_options, json_option, store_option


@click.command(cls=Command, examples=["shoal gc --dry-run", "shoal gc"])
@general_options
@store_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.pass_obj
def gc(invocation: Invocation, dry_run: bool, as_json: bool) -> None:
    """Remove from this node's store what no image needs, and what is above the low watermark."""
    from proxy.orders import SWEEP_PATH
    from shoal.cli.keeping import carry_out
    from shoal.units import format_size

    answer = carry_out(invocation, SWEEP_PATH, {"dry_run": dry_run}, lambda keeping: keeping.sweep(dry_run))
    if as_json:
        click.echo(json.dumps(answer))
        return
    for each in answer["removed"]:
        click.echo(f"{each['digest']} {each['reason']}, {len(each['blobs'])} blobs, {format_size(each['bytes'])}")
    click.echo(f"{format_size(answer['bytes'])} {'would be' if dry_run else 'were'} removed")
