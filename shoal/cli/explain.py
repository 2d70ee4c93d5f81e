"""`shoal explain`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from shoal.cli.frame import Command
from shoal.cli.options import Invocation, order_options

_DIGITS = 19
"""Of a digest, with its algorithm."""
_LEAST_SHOWN = 0.01
"""Seconds; causes that took less are left out."""

Told = Mapping[str, Any]


@click.command(
    cls=Command,
    examples=[
        "shoal explain docker.io/library/alpine:3.20",
        "shoal explain  # the last pull of any image",
        "shoal explain --list",
    ],
)
@order_options
@click.option("--list", "as_list", is_flag=True, help="List the last pulls.")
@click.argument("image", required=False)
@click.pass_obj
def explain(invocation: Invocation, image: str | None, as_list: bool, as_json: bool) -> None:
    """Say why the last pull of IMAGE took as long as it did.

    Each moment of a pull has one cause: bytes were flowing, from neighbours, from the origin or to the client, or one
    thing was waited for. It is told how long each took, from where the bytes came, and the same of each request. This
    node remembers its last 200 pulls, as long as its daemon runs.
    """
    from urllib.parse import quote

    from proxy.orders import EXPLAIN_PATH, PULLS_PATH
    from shoal.cli.orders import about, ask

    if as_list:
        answer = ask(invocation, "GET", PULLS_PATH)
    else:
        query = f"?image={quote(str(about(image)['image']))}" if image else ""
        answer = ask(invocation, "GET", EXPLAIN_PATH + query)
    if as_json:
        click.echo(json.dumps(answer))
    elif as_list:
        _show_pulls(answer["pulls"])
    else:
        _show_pull(answer)


def _show_pulls(pulls: list[Told]) -> None:
    from shoal.cli.tables import show
    from shoal.units import format_size

    if not pulls:
        click.echo("No pull is remembered: this node has served none since it was started.")
        return
    rows = [
        (pull["image"], pull["began"], f"{pull['seconds']:.1f} s", format_size(pull["bytes"]), _client(pull))
        for pull in pulls
    ]
    show(("image", "began", "took", "bytes", "client"), rows)


def _show_pull(pull: Told) -> None:
    from shoal.cli.tables import show
    from shoal.units import format_size

    click.echo(f"{pull['image']}, pulled by {_client(pull)} at {pull['began']}\n\n{pull['verdict']}\n")
    causes = [(f"{each['seconds']:.2f} s", each["meaning"]) for each in _worth(pull["causes"])]
    if causes:
        show(("time", "spent"), causes)
        click.echo()
    sources = [(format_size(each["bytes"]), each["kind"], each["name"]) for each in pull["sources"]]
    if sources:
        show(("bytes", "from", ""), sources)
        click.echo()
    show(
        ("request", "size", "began", "first byte", "took", "status", "mostly"),
        (_row(request) for request in pull["requests"]),
    )
    if pull["requests_left_out"]:
        click.echo(f"{pull['requests_left_out']} more requests are counted in the sums alone.")


def _row(request: Told) -> tuple[str, ...]:
    from shoal.units import format_size

    first = request["first_byte_seconds"]
    most = ", ".join(f"{each['cause']} {each['seconds']:.2f} s" for each in _worth(request["causes"][:2]))
    return (
        f"{request['method']} {request['kind']} {request['reference'][:_DIGITS]}",
        format_size(request["size"]) if request["size"] else "",
        f"{request['began_seconds']:.2f} s",
        "" if first is None else f"{first:.2f} s",
        f"{request['seconds']:.2f} s",
        request["end"].partition(":")[0] or str(request["status"] or "runs"),
        most,
    )


def _worth(causes: list[Told]) -> Iterator[Told]:
    return (each for each in causes if each["seconds"] >= _LEAST_SHOWN)


def _client(pull: Told) -> str:
    return f"{pull['agent']} at {pull['client']}" if pull["agent"] else str(pull["client"])
