"""`shoal status`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from shoal.cli.frame import Command
from shoal.cli.options import Invocation, cluster_order_options, order_options

_HOW = """\
A cluster is shown by its supernode. Run this on the supernode's machine, or have its operations port listen for others
(supernode.operations.host), and name that port by --supernode-operations and the operator's token by --token-file."""


@click.command(
    cls=Command,
    examples=[
        "shoal status",
        "shoal status --watch  # drawn anew each second, until Ctrl-C",
        "shoal status --cluster",
        "shoal status --cluster --supernode-operations lead.example:5091 --token-file token",
        "shoal status --json --watch  # a line of JSON each second",
    ],
)
@order_options
@cluster_order_options
@click.option("--watch", is_flag=True, help="Show it anew each second, until Ctrl-C.")
@click.pass_obj
def status(invocation: Invocation, of_cluster: bool, watch: bool, as_json: bool) -> None:
    """Show how this node does, or with --cluster all nodes together.

    Of a node: its supernode, its store, what it has fetched and given, what is on its way to it and from whom, and its
    upstreams with the rate limits that they tell.

    Of a cluster: its nodes, swarms and leases, what moves, what was saved, and its origins with their slots and limits.
    The supernode is asked, at its operations port. From another machine that wants the operator's token: copy the file
    operator-token from the folder of the supernode's state, and name the copy by --token-file.
    """
    from shoal.cli.live import follow
    from shoal.cli.tables import console

    ask, draw = _cluster(invocation) if of_cluster else _node(invocation)
    if watch:
        follow(ask, draw, as_json=as_json)
        return
    answer = ask()
    if as_json:
        click.echo(json.dumps(answer))
    else:
        screen = console()
        screen.print(draw(answer, screen.width))


def _node(invocation: Invocation) -> Any:
    from proxy.orders import STATUS_PATH
    from shoal.cli.nodeboard import Nodeboard
    from shoal.cli.orders import this_node

    node = this_node(invocation)
    return (lambda: node.ask("GET", STATUS_PATH)), Nodeboard().draw


def _cluster(invocation: Invocation) -> Any:
    from shoal.cli.clusterboard import draw
    from shoal.cli.exits import NoDaemon
    from shoal.cli.orders import the_supernode
    from shoal.fields import authority

    supernode = the_supernode(invocation)

    def ask() -> Mapping[str, Any]:
        try:
            return {**supernode.ask("GET", "/v1/cluster"), "members": supernode.ask("GET", "/v1/nodes")["nodes"]}
        except NoDaemon as error:
            raise NoDaemon(f"{error.message}\n{_HOW}") from None
        except click.ClickException as error:
            where = authority(supernode.host, supernode.port)
            raise click.ClickException(f"the supernode at {where} says: {error.message}\n{_HOW}") from None

    return ask, draw
