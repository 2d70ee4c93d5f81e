"""Where requests to an upstream may lead: to itself, to hosts that the configuration names, else to public addresses.

A redirect, or a challenge that names a token server, is the word of somebody else: it must not make this node ask what
only this node, or its network, is asked from. A name is judged where it is connected to (`proxy.addresses`), so that it
cannot have another address by then. Through an HTTP proxy it is the proxy that looks names up, and that keeps requests
from what is inside; addresses in numbers, and names of this machine, are refused here all the same.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from yarl import URL

from proxy.addresses import NotPermitted, is_own, may_be_public
from proxy.destinations import Authority, InvalidAuthority
from shoal.fields import is_loopback

_PORTS = {"http": 80, "https": 443}


class Reach:
    """Decides for one address of an upstream."""

    def __init__(self, base: URL, redirects: Sequence[str], proxies: Container[str], *, public_only: bool) -> None:
        """`base`: the address; `redirects`: hosts that it may send to wherever they are, `host` or `host:port`.

        `proxies`: hosts of the HTTP proxies on the way. `public_only`: the configuration does not name the upstream, so
        that it has to be public itself, and spoken to with TLS.
        """
        self._host = base.host or ""
        self._redirects = redirects
        self._proxies = proxies
        self._public_only = public_only

    def is_named(self, url: URL) -> bool:
        """Whether the configuration names the host: its address is not looked at then.

        All names and addresses of loopback are one host.
        """
        if self._public_only:
            return False
        if url.host == self._host or (is_loopback(self._host) and is_loopback(url.host or "")):
            return True
        host, port = url.raw_host or "", url.port or 0
        try:
            target = Authority.parse(f"[{host}]" if ":" in host else host, port)
        except InvalidAuthority:
            return False
        return any(Authority.parse(text, _PORTS[url.scheme]) == target for text in self._redirects)

    def check(self, url: URL, *, is_direct: bool) -> None:
        """Raises `NotPermitted` where no request may go to a host that is not named.

        `is_direct`: without an HTTP proxy. A name that passes here is judged again by its addresses.
        """
        if self._public_only and url.scheme != "https":
            raise NotPermitted(f"{url.scheme}://{url.host} is not for everybody")
        host = url.host or ""
        if not may_be_public(host) or (is_direct and (host in self._proxies or is_own(host))):
            raise NotPermitted(f"{host} is no public address")
