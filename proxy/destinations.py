"""Where a request of forward-proxy mode goes: into the mirror, on to its own host, or nowhere. No I/O."""

from __future__ import annotations

import ipaddress
import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol
from urllib.parse import unquote

import msgspec
from msgspec import Meta
from yarl import URL

from shoal.fields import Duration
from shoal.reference import DOCKER_HUB, Registry

Scheme = Literal["http", "https"]

SYSTEM_AUTHORITY = Path("/var/lib/shoal-ca")
USER_AUTHORITY = Path("~/.local/share/shoal-ca")
DOCKER_HUB_HOST = "registry-1.docker.io"

_PORTS: dict[Scheme, int] = {"http": 80, "https": 443}
_AUTHORITY = re.compile(
    r"(?P<host>[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?"
)


def default_authority() -> Path:
    """Where the certificate authority is when nobody says so: beside the default store, never inside of it."""
    return SYSTEM_AUTHORITY if os.geteuid() == 0 else USER_AUTHORITY.expanduser()


class TunnelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Forward-proxy mode: the proxy as `HTTPS_PROXY` and `HTTP_PROXY` of clients."""

    enabled: bool = False
    """Whether the proxy is one for `HTTPS_PROXY` and `HTTP_PROXY` too."""

    ca: Path = msgspec.field(default_factory=default_authority)
    """The folder of the node's own certificate authority, which `shoal config ca` makes.
    `/var/lib/shoal-ca` for root, else `~/.local/share/shoal-ca`."""

    others: Literal["tunnel", "refuse"] = "tunnel"
    """What becomes of hosts that the configuration does not name."""

    ports: list[Annotated[int, Meta(ge=1, le=65535)]] = msgspec.field(default_factory=lambda: [443])
    """The ports of other hosts that are reached."""

    hosts: list[str] = []
    """Hosts, `host` or `host:port`, that are reached though others are refused, and whatever their address is."""

    connections: Annotated[int, Meta(ge=1, le=65535)] = 512
    """How many CONNECT requests are served at a time; the next ones are refused."""

    idle_timeout: Annotated[Duration, Meta(ge=1, le=24 * 3600)] = 300.0
    """Seconds without a byte in either direction after which a tunnel ends."""

    def __post_init__(self) -> None:
        for text in self.hosts:
            try:
                Authority.parse(text, 443)
            except InvalidAuthority:
                raise ValueError(f"`hosts` {text!r} (allowed: host or host:port)") from None


class InvalidAuthority(ValueError):
    """What is not `host` or `host:port`."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A host, in lower case and without brackets, and its port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int) -> Authority:
        """Read `host[:port]`; raises `InvalidAuthority`."""
        match = _AUTHORITY.fullmatch(text)
        port = int(match["port"]) if match is not None and match["port"] else default_port
        if match is None or not 0 < port < 1 << 16:
            shown = text.rpartition("@")[2]  # before it a password may stand
            raise InvalidAuthority(f"not a host with a port: {shown[:100]!r}")
        host = match["host"].lower()
        try:
            host = ipaddress.ip_address(host.strip("[]")).compressed
        except ValueError:
            if host.startswith("["):
                raise InvalidAuthority(f"not an address: {text[:100]!r}") from None
            host = host.removesuffix(".")
        return cls(host, port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Opened:
    """A host whose requests the mirror answers, as those of `registry`."""

    registry: Registry
    scheme: Scheme
    authority: Authority

    def is_addressed_by(self, host: str | None) -> bool:
        """Whether the `Host` of a request, where it has one, is this host."""
        if host is None:
            return True
        try:
            return Authority.parse(host, _PORTS[self.scheme]) == self.authority
        except InvalidAuthority:
            return False


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another host. `anywhere`: whatever its address is; without, only at a public one."""

    authority: Authority
    anywhere: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """A host that is not reached, and why."""

    reason: str


def is_pull(raw_path: str) -> bool:
    """Whether GET or HEAD of a path, as it stands in the request line, is the mirror's to answer, not to be relayed.

    What a registry might take for a pull is the mirror's as well, however it is written: the mirror's rules must not
    be gone around by a path that it does not read and the registry does.
    """
    path = unquote(raw_path)
    normal = posixpath.normpath(f"/{path.lstrip('/')}")
    if not normal.lower().startswith("/v2/"):
        return False
    *_, before, endpoint, last = ["", *normal.split("/")]
    if endpoint == "blobs" and last == "uploads":
        return False
    if endpoint in {"manifests", "blobs", "referrers"} or (endpoint, last) == ("tags", "list"):
        return True
    is_upload = (before, endpoint) == ("blobs", "uploads")
    return path.rstrip("/") != normal and not is_upload


class Reachable(Protocol):
    """What is looked at of an upstream (`proxy.settings.UpstreamSettings` has it)."""

    @property
    def url(self) -> str: ...


class Destinations:
    """Decides by the configuration alone; addresses are looked at by who connects (`proxy.addresses`)."""

    def __init__(self, settings: TunnelSettings, upstreams: Mapping[str, Reachable]) -> None:
        self._settings = settings
        ports = settings.ports or [_PORTS["https"]]
        self._named = frozenset(Authority.parse(text, port) for text in settings.hosts for port in ports)
        self._opened: dict[tuple[Scheme, Authority], Registry] = {}
        schemes: tuple[Scheme, ...] = ("https", "http")
        for name in upstreams:
            host = DOCKER_HUB_HOST if name == DOCKER_HUB else name
            for scheme in schemes:
                self._opened[scheme, Authority.parse(host, _PORTS[scheme])] = Registry(name)
        for name, upstream in upstreams.items():  # a registry's own name goes before an address of another one
            url = URL(upstream.url)
            for scheme in schemes:
                if url.scheme == scheme and url.host is not None and url.port is not None:
                    authority = Authority.parse(f"[{url.host}]" if ":" in url.host else url.host, url.port)
                    self._opened.setdefault((scheme, authority), Registry(name))

    @property
    def opened_hosts(self) -> list[str]:
        """The hosts that are opened behind CONNECT, with the port where it is not that of https."""
        found = {authority for scheme, authority in self._opened if scheme == "https"}
        default = f":{_PORTS['https']}"
        return sorted(str(authority).removesuffix(default) for authority in found)

    def decide(self, scheme: Scheme, authority: Authority) -> Opened | Elsewhere | Refused:
        """What becomes of a request for `authority`: `https` by CONNECT, `http` with the whole address in its line."""
        registry = self._opened.get((scheme, authority))
        if registry is not None:
            return Opened(registry, scheme, authority)
        if authority in self._named:
            return Elsewhere(authority, anywhere=True)
        if self._settings.others == "refuse":
            return Refused(f"{authority} is neither an upstream of this mirror nor one of its proxy.tunnel.hosts")
        if authority.port not in self._settings.ports:
            allowed = ", ".join(map(str, self._settings.ports)) or "none"
            return Refused(f"port {authority.port} is not one of proxy.tunnel.ports ({allowed})")
        return Elsewhere(authority, anywhere=False)
