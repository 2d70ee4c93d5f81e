"""Commands for a daemon that runs: they ask its operations endpoints."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import aiohttp
import click
from rich.console import Console
from rich.table import Table

from peer.settings import PeerSettings
from proxy.administration import REFRESH_PATH, REMOVE_PATH, STATUS_PATH
from shoal.cli.options import Invocation, general_options, store_option
from shoal.operator import OperatorToken, TokenUnusable
from shoal.reference import InvalidReference, Reference
from shoal.units import format_size

_TIMEOUT = aiohttp.ClientTimeout(total=300, sock_connect=10)
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}

json_option = click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")


@click.command()
@general_options
@json_option
@click.pass_obj
def status(invocation: Invocation, as_json: bool) -> None:
    """Show this node's supernode and store, and its upstreams with their rate limits."""
    answer = ask(invocation, "GET", STATUS_PATH)
    if as_json:
        click.echo(json.dumps(answer))
        return
    click.echo(f"supernode: {'connected' if answer['supernode_connected'] else 'none'}")
    if answer["store_fault"]:
        click.echo(f"store: nothing is kept ({answer['store_fault']})")
    table = Table("upstream", "requests left", "of", "left alone for")
    for upstream in answer["upstreams"]:
        cells = [upstream["remaining"], upstream["limit"]]
        quiet = f"{upstream['quiet_seconds']:.0f} s" if upstream["quiet_seconds"] else ""
        table.add_row(upstream["registry"], *("" if cell is None else str(cell) for cell in cells), quiet)
    Console().print(table)


@click.command()
@general_options
@store_option
@json_option
@click.argument("image")
@click.pass_obj
def refresh(invocation: Invocation, image: str, as_json: bool) -> None:
    """Have the origin asked anew for all tags of IMAGE's repository, on all nodes."""
    answer = ask(invocation, "POST", REFRESH_PATH, _about(image))
    click.echo(json.dumps(answer) if as_json else f"{answer['refreshed']}: the origin is asked anew")


@click.command()
@general_options
@store_option
@json_option
@click.argument("image")
@click.pass_obj
def rm(invocation: Invocation, image: str, as_json: bool) -> None:
    """Remove IMAGE from this node's store; layers that other images share come again when they are asked for."""
    answer = ask(invocation, "POST", REMOVE_PATH, _about(image))
    size = format_size(answer["bytes"])
    click.echo(json.dumps(answer) if as_json else f"{image}: {len(answer['removed'])} blobs removed, {size}")


def ask(invocation: Invocation, method: str, path: str, order: Mapping[str, object] | None = None) -> dict[str, Any]:
    """The running daemon's answer; raises `click.ClickException` where there is none."""
    settings = invocation.configuration({"log": {"level": "warning"}}).peer
    operations = settings.operations
    host = _ANYWHERE.get(operations.host, operations.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{operations.port}{path}"
    headers = _signed(settings, method)

    async def answered() -> tuple[int, dict[str, Any]]:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.request(method, url, json=order, headers=headers) as response,
        ):
            return response.status, await response.json()

    try:
        code, answer = asyncio.run(answered())
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise click.ClickException(f"no daemon answers at {url}: {error}") from None
    if code != 200:
        raise click.ClickException(str(answer.get("error", f"status {code}")))
    return answer


def _about(image: str) -> dict[str, object]:
    """An order about one image; raises `click.BadParameter`."""
    try:
        Reference.parse(image)
    except InvalidReference as error:
        raise click.BadParameter(str(error), param_hint="IMAGE") from None
    return {"image": image}


def _signed(settings: PeerSettings, method: str) -> dict[str, str]:
    """Who may not read the operator's token may not change the node; its state is shown on the node to everybody."""
    try:
        return {"Authorization": f"Bearer {OperatorToken(settings.token_file).read()}"}
    except TokenUnusable as error:
        if method == "GET":
            return {}
        hint = "run it as the daemon's user, with the daemon's configuration (`peer.store`, `peer.operations`)"
        raise click.ClickException(f"{error}: {hint}") from None
