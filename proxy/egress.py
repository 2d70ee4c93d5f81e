"""Which HTTP proxy a connection to an upstream takes. No I/O.

`NO_PROXY` is read as Go's programs read it, docker and containerd among them: names with what is below them, addresses,
networks, each with a port where one is meant; this machine itself is always reached directly.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from yarl import URL

from proxy.settings import NO_HTTP_PROXY


@dataclass(frozen=True, slots=True)
class Egress:
    """The ways out: proxies for both schemes (empty: none), and what is reached without one."""

    http: str = ""
    https: str = ""
    exclude: Sequence[str] = ()
    own: Sequence[str] = ()
    """The proxies that single upstreams have instead."""

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts of the proxies themselves."""
        return frozenset(URL(proxy).host or "" for proxy in (self.http, self.https, *self.own) if proxy)

    def proxy_for(self, url: URL, own: str = "") -> URL | None:
        """The HTTP proxy for a request to `url`; `own` is what the upstream's settings say, which goes first."""
        if own:
            return None if own == NO_HTTP_PROXY else URL(own)
        proxy = self.https if url.scheme == "https" else self.http
        if not proxy or self._is_direct(url.host or "", url.port or 0):
            return None
        return URL(proxy)

    def _is_direct(self, host: str, port: int) -> bool:
        address = _address(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            return True
        return any(_matches(entry.strip().lower(), host.lower(), address, port) for entry in self.exclude)


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _matches(entry: str, host: str, address: _Address | None, port: int) -> bool:
    if entry == "*":
        return True
    if address is not None and "/" in entry:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, colon, number = entry.rpartition(":")
    if colon and number.isdigit() and ("]" in name or ":" not in name):
        if int(number) != port:
            return False
        entry = name
    entry = entry.strip("[]")
    if address is not None:
        return _address(entry) == address
    domain = entry.removeprefix("*").removeprefix(".")
    return bool(domain) and ((host == domain and entry == domain) or host.endswith(f".{domain}"))


def _address(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
