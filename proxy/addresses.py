"""Addresses of hosts, and which of them may be connected to on behalf of somebody else.

Who connects does so to an address that was looked at here: a name that is resolved a second time may give another one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Container
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from shoal.fields import is_loopback

_RESOLVE_SECONDS = 5.0
_IPv4, _IPv6 = ipaddress.IPv4Address, ipaddress.IPv6Address
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses of IPv4 hosts behind a translator (RFC 6052). Where in those of local translators (RFC 8215) the IPv4
address stands is not to be known, so that they count as private."""

_OF_CLOUDS = frozenset({ipaddress.ip_address("168.63.129.16")})
"""Public by its number, and answered by the machine's own host in Azure."""


class NotPermitted(Exception):
    """A host all of whose addresses are loopback, link-local, private or this machine's own."""


def is_public(text: str) -> bool:
    """Whether an address is one of the open Internet, with any IPv4 address that an IPv6 address stands for."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, _IPv6):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _TRANSLATED:
            inner = _IPv4(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(str(inner))
        if address not in _GLOBAL_UNICAST:
            return False
    return address.is_global and not address.is_multicast and address not in _OF_CLOUDS


def is_own(text: str) -> bool:
    """Whether this machine has the address: the way to it then begins there as well. Sends nothing.

    False for a name.
    """
    if not _is_address(text):
        return False
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((text, 9))
        except OSError:
            return False
        return ipaddress.ip_address(probe.getsockname()[0]) == ipaddress.ip_address(text)


async def resolve(host: str, port: int, *, anywhere: bool) -> list[str]:
    """Addresses of a host, those that may be connected to; raises `NotPermitted`, `OSError` and `TimeoutError`.

    `anywhere`: the configuration names the host, so that every address is good.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_RESOLVE_SECONDS):
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if anywhere:
        return addresses
    permitted = [address for address in addresses if is_public(address) and not is_own(address)]
    if not permitted:
        raise NotPermitted(f"{host} has no public address ({', '.join(addresses)})")
    return permitted


class PublicResolver(AbstractResolver):
    """For an HTTP client that connects to public addresses only; literal addresses do not come by here."""

    def __init__(self, named: Container[str] = ()) -> None:
        """`named`: hosts that the configuration names, wherever they are."""
        self._named = named

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        """Raises `NotPermitted` and `OSError`."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await resolve(host, port, anywhere=host in self._named)
        ]

    async def close(self) -> None:
        """Holds nothing."""


def may_be_public(host: str) -> bool:
    """Whether a host is one of the open Internet as far as its text tells: a name, or a public address."""
    if is_loopback(host):
        return False
    host = host.strip("[]")
    return not _is_address(host) or is_public(host)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True
