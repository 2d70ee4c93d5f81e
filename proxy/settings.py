"""The proxy's part of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from shoal.fields import Duration, Host, Port, check_url
from shoal.reference import DOCKER_HUB, InvalidReference, Registry, parse_registry

DOCKER_HUB_URL = "https://registry-1.docker.io"

_Wait = Annotated[Duration, Meta(ge=0, le=30 * 24 * 3600)]
_Timeout = Annotated[Duration, Meta(gt=0, le=3600)]
_ClientTimeout = Annotated[Duration, Meta(ge=1, le=3600)]
_Retries = Annotated[int, Meta(ge=0, le=20)]
Lazy = Literal["range", "background", "whole"]


class CredentialsUnreadable(ValueError):
    """The file of an upstream's password cannot be read."""


class UpstreamSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An upstream registry: how to reach it, and as whom."""

    url: str = ""
    """Where it listens, `https://host[:port]` or `http://...`. Empty: `https://` and the registry's own name."""

    username: str = ""
    password: str = ""
    password_file: str = ""
    """A file that holds the password (white space around it is dropped), instead of `password`."""

    connect_timeout: _Timeout = 5.0
    """Seconds until a connection stands: name, TCP and TLS together."""

    read_timeout: _Timeout = 30.0
    """Seconds without a single byte; there is no limit on a whole body."""

    retries: _Retries = 3
    """How often a question (what a tag stands for, a list) is asked again, within 5 s in all."""

    def __post_init__(self) -> None:
        if self.url:
            check_url("url", self.url)
        if self.password and self.password_file:
            raise ValueError("`password` and `password_file` exclude each other")
        if (self.password or self.password_file) and not self.username:
            raise ValueError("a password needs a `username`")
        if ":" in self.username:
            raise ValueError("`username` must not hold a colon")

    def credentials(self) -> tuple[str, str] | None:
        """Username and password, or None for an anonymous upstream; raises `CredentialsUnreadable`."""
        if not self.username:
            return None
        if not self.password_file:
            return self.username, self.password
        try:
            return self.username, Path(self.password_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CredentialsUnreadable(f"`password_file` {self.password_file!r} cannot be read: {error}") from None


class ProxySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where clients reach the proxy, and for which registries it stands.

    The proxy opens connections to the hosts that `upstreams` name and to no others, with one exception that a registry
    needs to work: hosts that a configured upstream itself announces, by a redirect (its CDN) or as the `realm` of its
    tokens. What the upstream's credentials are is never told to a host that a redirect names.
    """

    host: Host = "127.0.0.1"
    port: Port = 5080
    """0 takes any free port."""

    default_upstream: str = DOCKER_HUB
    """The registry of requests that name none, as docker's do. `docker.io` needs no entry in `upstreams`."""

    upstreams: dict[str, UpstreamSettings] = {}
    """The registries that the proxy stands for, by the name that images have (`docker.io`, `registry.example:5000`)."""

    tag_freshness: _Wait = 60.0
    """Seconds for which a tag's digest is given without a question to the supernode or the origin."""

    lazy: Lazy = "background"
    """What is fetched besides the ranges of a blob that clients ask for, which come first in any case.

    `range`: nothing; `background`: the rest of the blob, while nobody waits for a range of it; `whole`: the whole blob
    at once, and the image's following blobs.
    """

    client_timeout: _ClientTimeout = 60.0
    """Seconds after which a client that takes no byte of what is sent to it is cut; each byte begins them anew."""

    shutdown_timeout: _Wait = 30.0
    """Seconds that running responses get to finish when the proxy stops."""

    def __post_init__(self) -> None:
        default = _registry("default_upstream", self.default_upstream)
        upstreams: dict[str, UpstreamSettings] = {}
        for name, upstream in self.upstreams.items():
            registry = _registry("upstreams", name)
            if registry in upstreams:
                raise ValueError(f"`upstreams` names {registry!r} twice")
            upstreams[registry] = upstream if upstream.url else _with_url(registry, upstream)
        if default == DOCKER_HUB:
            upstreams.setdefault(DOCKER_HUB, UpstreamSettings(url=DOCKER_HUB_URL))
        if default not in upstreams:
            known = ", ".join(sorted(upstreams)) or "none"
            raise ValueError(f"`default_upstream` {default!r} is not one of `upstreams` ({known})")
        msgspec.structs.force_setattr(self, "default_upstream", default)
        msgspec.structs.force_setattr(self, "upstreams", upstreams)

    def upstream(self, registry: Registry) -> UpstreamSettings | None:
        """How to reach a registry, or None where the configuration does not name it."""
        return self.upstreams.get(registry)


def _with_url(registry: Registry, upstream: UpstreamSettings) -> UpstreamSettings:
    url = DOCKER_HUB_URL if registry == DOCKER_HUB else f"https://{registry}"
    return msgspec.structs.replace(upstream, url=url)


def _registry(key: str, text: str) -> Registry:
    try:
        return parse_registry(text)
    except InvalidReference as error:
        raise ValueError(f"`{key}`: {error}") from None
