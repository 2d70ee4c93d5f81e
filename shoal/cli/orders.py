"""Orders to the daemon that runs on this node: what it answers at its operations port."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import click

from peer.settings import PeerSettings
from shoal.cli.options import Invocation
from shoal.fields import authority
from shoal.operator import OperatorToken, TokenUnusable
from shoal.reference import InvalidReference, Reference

_TIMEOUT = aiohttp.ClientTimeout(total=300, sock_connect=10)
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def ask(invocation: Invocation, method: str, path: str, order: Mapping[str, object] | None = None) -> dict[str, Any]:
    """The running daemon's answer; raises `click.ClickException` where there is none."""
    settings = invocation.configuration({"log": {"level": "warning"}}).peer
    url = f"http://{operations_address(settings)}{path}"
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


def operations_address(settings: PeerSettings) -> str:
    """Where the daemon of this machine answers, `host:port`."""
    operations = settings.operations
    return authority(_ANYWHERE.get(operations.host, operations.host), operations.port)


def about(image: str) -> dict[str, object]:
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
