"""`shoal limit`."""

from __future__ import annotations

import json
from typing import Any

import click

from shoal.cli.frame import Command
from shoal.cli.options import Invocation, cluster_order_options, order_options

_KINDS = ("upload", "download", "origin", "preheat")
_BY = {
    "order": "this command",
    "configuration": "the configuration",
    "cluster": "the supernode",
    "nobody": "",
}


@click.command(
    cls=Command,
    examples=[
        "shoal limit",
        "shoal limit upload 200MB/s",
        "shoal limit origin none",
        "shoal limit upload default",
        "shoal limit --cluster origin 500MB/s  # of each node that says nothing itself",
    ],
)
@order_options
@cluster_order_options
@click.argument("kind", required=False, type=click.Choice(_KINDS))
@click.argument("rate", required=False)
@click.pass_obj
def limit(invocation: Invocation, kind: str | None, rate: str | None, of_cluster: bool, as_json: bool) -> None:
    """Show or change how much this node sends and fetches at most.

    KIND is upload (what goes to other nodes), download (what comes from other nodes and from origins), origin (what
    comes from origins) or preheat (what comes for preheating). RATE is a rate such as 200MB/s or 500Mbit/s, none for no
    limit, or default for what the configuration says, else the supernode. What clients get from a node is not limited.

    With --cluster it is about the limits that hold for each node whose own configuration says nothing.

    A change holds until the daemon restarts or reads its configuration again. What is to last belongs there, as
    limits.upload of the table [peer], or of [supernode] for the cluster.
    """
    from shoal.cli.orders import the_supernode, this_node
    from shoal.limits import LIMITS_PATH, LimitOrder, Traffic

    if kind is not None and rate is not None:
        try:
            _ = LimitOrder(Traffic(kind), rate).bytes_per_second
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="RATE") from None
    daemon = the_supernode(invocation) if of_cluster else this_node(invocation)
    if kind is not None and rate is not None:
        answer = daemon.ask("POST", LIMITS_PATH, {"traffic": kind, "rate": rate})
    else:
        answer = daemon.ask("GET", LIMITS_PATH)
    limits = {each: answer["limits"][each] for each in ([kind] if kind else _KINDS)}
    if as_json:
        click.echo(json.dumps({"limits": limits}))
    else:
        _show(limits)


def _show(limits: dict[str, dict[str, Any]]) -> None:
    from shoal.cli.tables import show
    from shoal.units import format_rate

    rows = [
        (kind, format_rate(found["bytes_per_second"]), _BY.get(found["set_by"], found["set_by"]))
        for kind, found in limits.items()
    ]
    show(("limit", "at most", "set by"), rows)
