"""What runtimes are told: the mirror's address, and the registries that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.settings import ProxySettings, UpstreamSettings
from shoal.fields import authority, from_here, is_everywhere, is_loopback
from shoal.reference import Registry, parse_registry

_LOOPBACK = ("127.", "[::1]", "localhost")


@dataclass(frozen=True, slots=True)
class Upstream:
    """A registry that pulls are taken from."""

    name: Registry
    """As images have it."""
    url: str
    """Where it is itself, to which runtimes go on when the mirror fails."""
    segment: str | None
    """How a path's first segment names it; None where it cannot, since its name holds a port and it has no alias."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """One node's proxy as its runtimes see it."""

    url: str
    """`http://host:port`."""
    upstreams: tuple[Upstream, ...]
    default: Registry
    """The registry of requests that name none."""
    takes_any: bool
    """Whether it stands for registries that nobody has named."""
    is_everywhere: bool = False
    """Whether it listens at all addresses of the machine."""

    @property
    def host(self) -> str:
        """`host:port`."""
        return self.url.partition("://")[2]

    @property
    def is_local(self) -> bool:
        """Whether its address is one of loopback, where runtimes take plain HTTP unasked."""
        return is_local(self.host)

    def is_at(self, url: str) -> bool:
        """Whether a URL that somebody wrote is this mirror's."""
        scheme, _, host = url.rstrip("/").partition("://")
        return scheme == "http" and self.is_host(host)

    def is_host(self, text: str) -> bool:
        """Whether `host:port` that somebody wrote is this mirror's."""
        host, _, port = text.rpartition(":")
        if port != self.host.rpartition(":")[2]:
            return False
        is_named = text == self.host or (self.is_local and host == "localhost")
        return is_named or (self.is_everywhere and _is_own(host.strip("[]")))

    def upstream(self, name: Registry) -> Upstream | None:
        """The registry of that name, where it is one of those to be configured."""
        return next((each for each in self.upstreams if each.name == name), None)


def is_local(place: str) -> bool:
    """Whether `host:port` is one of loopback, where runtimes take plain HTTP unasked."""
    return place.startswith(_LOOPBACK)


def mirror_of(settings: ProxySettings, names: Sequence[str] = ()) -> Mirror:
    """The mirror of a node's configuration, for `names` of its upstreams or without any for all of them."""
    address = authority(from_here(settings.host), settings.port)
    wanted = [parse_registry(name) for name in names] or [Registry(name) for name in settings.upstreams]
    upstreams = tuple(_upstream(name, settings.upstreams[name]) for name in dict.fromkeys(wanted))
    default = Registry(settings.default_upstream)
    takes_any = settings.any_upstream and not names
    return Mirror(f"http://{address}", upstreams, default, takes_any, is_everywhere(settings.host))


def _upstream(name: Registry, settings: UpstreamSettings) -> Upstream:
    segments = [each for each in (name, *settings.aliases) if ":" not in each]
    return Upstream(name, settings.url, next(iter(segments), None))


def _is_own(host: str) -> bool:
    """Whether an address is one of this machine's."""
    from proxy.addresses import is_own  # takes a while to import

    return is_loopback(host) or is_own(host)
