"""The proxy's part of the configuration."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from proxy.destinations import Authority, InvalidAuthority, TunnelSettings
from proxy.rules import AdmissionSettings
from shoal.fields import LIVE, Duration, Host, Port, check_proxy_url, check_url
from shoal.reference import DOCKER_HUB, InvalidReference, Location, Registry, Tag, parse_registry

DOCKER_HUB_URL = "https://registry-1.docker.io"

NO_HTTP_PROXY = "none"

_ALIAS = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_Wait = Annotated[Duration, Meta(ge=0, le=30 * 24 * 3600)]
_Timeout = Annotated[Duration, Meta(gt=0, le=3600)]
_ClientTimeout = Annotated[Duration, Meta(ge=1, le=3600)]
_Retries = Annotated[int, Meta(ge=0, le=20)]
Lazy = Literal["range", "background", "whole"]


class CredentialsUnreadable(ValueError):
    """The file of an upstream's password, or its certificates, cannot be read."""


class EndpointSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a registry, or a mirror of it, is reached, and as whom."""

    url: str = ""
    """Where it listens, `https://host[:port]` or `http://...`. Empty: `https://` and the registry's own name."""

    username: str = ""
    """This node's own name there. Clients have credentials of their own."""

    password: str = ""
    """The password of `username`."""

    password_file: str = ""
    """A file that holds the password (white space around it is dropped), instead of `password`."""

    docker_config: str = ""
    """A `config.json` as docker keeps it (`auths`, `credHelpers`, `credsStore`), instead of `username`."""

    ca_file: str = ""
    """Certificates of authorities (PEM) that are trusted here besides those of the system."""

    cert_file: str = ""
    """This node's own certificate (PEM), for an upstream that asks for one."""

    key_file: str = ""
    """The key of that certificate (PEM)."""

    http_proxy: str = ""
    """The HTTP proxy on the way there, `http://[user:password@]host:port`; `none` for none, whatever else is set."""

    redirects: list[str] = []
    """Hosts at private addresses, `host` or `host:port`, that it may send to: by a redirect, or as its token server.

    Its own host and public ones need no mention.
    """

    connect_timeout: _Timeout = 5.0
    """Seconds until a connection stands: name, TCP and TLS together."""

    read_timeout: _Timeout = 30.0
    """Seconds without a single byte; there is no limit on a whole body."""

    def __post_init__(self) -> None:
        if self.url:
            check_url("url", self.url)
        if self.password and self.password_file:
            raise ValueError("`password` and `password_file` exclude each other")
        if self.docker_config and self.username:
            raise ValueError("`docker_config` and `username` exclude each other")
        if (self.password or self.password_file) and not self.username:
            raise ValueError("a password needs a `username`")
        if ":" in self.username:
            raise ValueError("`username` must not hold a colon")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("`cert_file` and `key_file` belong together")
        if self.http_proxy and self.http_proxy != NO_HTTP_PROXY:
            check_proxy_url("http_proxy", self.http_proxy)
        for text in self.redirects:
            try:
                Authority.parse(text, 443)
            except InvalidAuthority:
                raise ValueError(f"`redirects` {text!r} (allowed: host or host:port)") from None

    def names_files(self) -> bool:
        """Whether something of this is read from files."""
        return bool(self.password_file or self.docker_config or self.ca_file or self.cert_file)

    def credentials(self) -> tuple[str, str] | None:
        """Username and password that stand here, or None where there are none; raises `CredentialsUnreadable`."""
        if not self.username:
            return None
        if not self.password_file:
            return self.username, self.password
        try:
            return self.username, Path(self.password_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CredentialsUnreadable(f"`password_file` {self.password_file!r} cannot be read: {error}") from None


class UpstreamSettings(EndpointSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An upstream registry: how to reach it, as whom, and what its clients may have."""

    share_credentials: bool = False
    """The node's own credentials serve every client. Without, each is judged by what he sends himself."""

    mirrors: list[EndpointSettings] = []
    """Asked before the registry itself, in this order, for what everybody may read.

    One that this node signs in to is asked for content alone, and the registry itself for who may have it, unless
    `share_credentials` says that everybody may have what this node may.
    """

    aliases: list[str] = []
    """Other names of the registry as a path's first segment, for clients that cannot write its own one there."""

    sign_in: bool = True
    """Whether `/v2/` answers as the registry itself does, with its challenge: docker, podman and skopeo take none from
    any other answer, and so have private images through the mirror; they then ask the token server for public ones
    too. Without, they are let in, and get what everybody may read without a token of their own."""

    catalog: bool = False
    """Whether `/v2/_catalog` is passed through."""

    retries: _Retries = 3
    """How often a question (what a tag stands for, a list) is asked again, within 5 s in all."""

    def __post_init__(self) -> None:
        EndpointSettings.__post_init__(self)
        for mirror in self.mirrors:
            if not mirror.url:
                raise ValueError("each of `mirrors` needs a `url`")
        for alias in self.aliases:
            if not _ALIAS.fullmatch(alias):
                raise ValueError(f"`aliases` {alias!r} (allowed: lower-case letters, digits, `.`, `_` and `-`)")

    def names_files(self) -> bool:
        """Whether something of this or of its mirrors is read from files."""
        return EndpointSettings.names_files(self) or any(mirror.names_files() for mirror in self.mirrors)


class ProxySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where clients reach the proxy, and for which registries it stands.

    The proxy opens connections to the hosts that `upstreams` name and to no others, with one exception that a registry
    needs to work: hosts that a configured upstream itself announces, by a redirect (its CDN) or as the `realm` of its
    tokens, where they have public addresses or stand in its `redirects`. What the upstream's credentials are is never
    told to a host that a redirect names. `any_upstream` adds registries with public names, by https and at public
    addresses.
    """

    host: Host = "127.0.0.1"
    """Where clients reach the node."""

    port: Port = 5080
    """0 takes any free port."""

    default_upstream: Annotated[str, LIVE] = DOCKER_HUB
    """The registry of requests that name none, as docker's do. `docker.io` needs no entry in `upstreams`."""

    upstreams: Annotated[dict[str, UpstreamSettings], LIVE] = {}
    """The registries that the proxy stands for, by the name that images have (`docker.io`, `registry.example:5000`)."""

    any_upstream: Annotated[bool, LIVE] = False
    """Whether all registries with public names and addresses are stood for, named in `upstreams` or not.

    Where an HTTP proxy leads to them, it is the proxy that looks names up, and that keeps addresses inside from them.
    """

    http_proxy: str = ""
    """The HTTP proxy towards upstreams of `http://`; `HTTP_PROXY` of the environment where it is not set."""

    https_proxy: str = ""
    """The HTTP proxy towards upstreams of `https://`; `HTTPS_PROXY` of the environment where it is not set."""

    no_proxy: list[str] = []
    """Hosts, domains, addresses and networks that are reached without a proxy; `NO_PROXY` where it is not set."""

    tag_freshness: Annotated[_Wait, LIVE] = 60.0
    """Seconds for which a tag's digest is given without a question to the supernode or the origin."""

    freshness: Annotated[dict[str, _Wait], LIVE] = {}
    """`tag_freshness` for images that a pattern names, `registry/repository:tag` with `*`; the first that matches, as
    in `{"docker.io/library/*:latest" = 10, "quay.io/base/*" = 3600}`."""

    rights_freshness: Annotated[_Wait, LIVE] = 60.0
    """Seconds for which the origin's yes to a client's own credentials is remembered."""

    lazy: Annotated[Lazy, LIVE] = "background"
    """What is fetched besides the ranges of a blob that clients ask for, which come first in any case.

    `range`: nothing; `background`: the rest of the blob, while nobody waits for a range of it; `whole`: the whole blob
    at once, and the image's following blobs.
    """

    tunnel: TunnelSettings = msgspec.field(default_factory=TunnelSettings)
    admission: Annotated[AdmissionSettings, LIVE] = AdmissionSettings()

    audit: str = ""
    """A file to which each request that has ended, and each change by an operator, adds a line of JSON; rotate it by
    renaming. Empty: none."""

    client_timeout: _ClientTimeout = 60.0
    """Seconds after which a client that takes no byte of what is sent to it is cut; each byte begins them anew.
    One that takes less than 1 KiB/s of what waits for it is cut too."""

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
        aliases = [alias for upstream in upstreams.values() for alias in upstream.aliases]
        for alias in aliases:
            if alias in upstreams or aliases.count(alias) > 1:
                raise ValueError(f"`aliases`: {alias!r} names more than one registry")
        for key, url in (("http_proxy", self.http_proxy), ("https_proxy", self.https_proxy)):
            if url:
                check_proxy_url(key, url)
        msgspec.structs.force_setattr(self, "default_upstream", default)
        msgspec.structs.force_setattr(self, "upstreams", upstreams)

    def aliases(self) -> dict[str, Registry]:
        """Other names of registries as a path's first segment."""
        return {alias: Registry(name) for name, upstream in self.upstreams.items() for alias in upstream.aliases}

    @property
    def own_http_proxies(self) -> list[str]:
        """The HTTP proxies of single upstreams and mirrors."""
        endpoints = [each for upstream in self.upstreams.values() for each in (upstream, *upstream.mirrors)]
        return [each.http_proxy for each in endpoints if each.http_proxy not in {"", NO_HTTP_PROXY}]

    def freshness_of(self, location: Location, tag: Tag) -> float:
        """Seconds for which what a tag stands for is given without asking."""
        name = f"{location.registry}/{location.repository}:{tag}"
        return next(
            (seconds for pattern, seconds in self.freshness.items() if fnmatchcase(name, pattern)), self.tag_freshness
        )

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
