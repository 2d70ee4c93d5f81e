"""What the daemon of this node tells of itself, or why it tells nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import aiohttp
import click
import msgspec

from peer.settings import PeerSettings
from proxy.checkup import CHECKUP_PATH, Checkup
from proxy.orders import PULLS_PATH, STATUS_PATH
from shoal.cli.orders import operations_address, trust
from shoal.operator import OperatorToken, TokenUnusable

_TIMEOUT = aiohttp.ClientTimeout(total=6.5, sock_connect=2.0)
"""A checkup takes up to 6 s: others are asked to call this node, which then calls them."""
_ALIVE_TIMEOUT = aiohttp.ClientTimeout(total=3.0, sock_connect=2.0)
"""One that hangs is known by then, so that there is time to look at the rest."""


class UpstreamState(msgspec.Struct, frozen=True):
    """An upstream's rate limit as the daemon knows it."""

    registry: str
    limit: int | None
    remaining: int | None
    quiet_seconds: float


class Status(msgspec.Struct, frozen=True):
    """What the daemon answers to `shoal status`, as far as it matters here."""

    store_fault: str
    upstreams: list[UpstreamState]


class PullState(msgspec.Struct, frozen=True):
    """One of the last pulls, as `shoal explain` tells it in short."""

    image: str
    agent: str
    """What its client says to be."""
    failed: int
    """Requests that were not answered well."""
    verdict: str


class Pulls(msgspec.Struct, frozen=True):
    """The last pulls, the newest first."""

    pulls: list[PullState]


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """The daemon's answers. Without a checkup, `fault` says why: `refused` where nobody listens, `silent`, `forbidden`,
    or `foreign` where what answers is no daemon of this version."""

    address: str
    """Where it was asked, `host:port`."""
    checkup: Checkup | None = None
    status: Status | None = None
    pulls: tuple[PullState, ...] = ()
    fault: str = ""
    detail: str = ""


async def ask_node(settings: PeerSettings) -> NodeAnswer:
    """Ask this machine's daemon, as whoever runs this may."""
    address = operations_address(settings)
    try:
        headers = {"Authorization": f"Bearer {OperatorToken(settings.token_file).read()}"}
    except TokenUnusable:
        headers = {}
    try:
        tls = trust(settings.operations)
    except click.ClickException as error:
        return NodeAnswer(address, fault="foreign", detail=error.message)
    scheme, connector = ("http", None) if tls is None else ("https", aiohttp.TCPConnector(ssl=tls))
    try:
        async with aiohttp.ClientSession(
            f"{scheme}://{address}", connector=connector, timeout=_TIMEOUT, headers=headers
        ) as session:
            await _get(session, "/healthz", _ALIVE_TIMEOUT)
            checkup, status, pulls = await asyncio.gather(
                _get(session, CHECKUP_PATH), _get(session, STATUS_PATH), _get(session, PULLS_PATH)
            )
        return NodeAnswer(
            address,
            msgspec.json.decode(checkup, type=Checkup),
            msgspec.json.decode(status, type=Status),
            tuple(msgspec.json.decode(pulls, type=Pulls).pulls),
        )
    except aiohttp.ClientResponseError as error:
        fault = "forbidden" if error.status in {401, 403} else "foreign"
        return NodeAnswer(address, fault=fault, detail=f"status {error.status}")
    except aiohttp.ClientConnectorError as error:
        fault = "refused" if isinstance(error.os_error, ConnectionRefusedError) else "silent"
        return NodeAnswer(address, fault=fault, detail=error.os_error.strerror or str(error.os_error))
    except TimeoutError:
        return NodeAnswer(address, fault="silent", detail="no answer in time")
    except (aiohttp.ClientError, OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        return NodeAnswer(address, fault="foreign", detail=str(error)[:200])


async def _get(session: aiohttp.ClientSession, path: str, limits: aiohttp.ClientTimeout = _TIMEOUT) -> bytes:
    async with session.get(path, raise_for_status=True, timeout=limits) as response:
        return await response.read()
