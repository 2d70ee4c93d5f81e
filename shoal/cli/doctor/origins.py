"""Upstream registries: whether this node reaches them, is let in, and may ask as much as it needs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
import msgspec
from prometheus_client import CollectorRegistry
from yarl import URL

from peer.origin import OriginDenied, OriginError, OriginNotFound
from proxy.authorization import NoTokenServer
from proxy.credentials import NodeCredentials
from proxy.egress import Egress
from proxy.identity import ANONYMOUS
from proxy.limits import LimitBoard
from proxy.metrics import ProxyMetrics
from proxy.retry import Limited, Transient, Unreachable
from proxy.settings import CredentialsUnreadable, EndpointSettings, ProxySettings, UpstreamSettings
from proxy.upstream import UpstreamClient
from shoal.cli.doctor.node import UpstreamState
from shoal.cli.doctor.subject import Subject
from shoal.cli.finding import Finding
from shoal.reference import DOCKER_HUB, Registry, parse_registry
from shoal.toml import dotted
from shoal.units import format_age

_SECONDS = 6.5
"""For one place, credentials included; a registry's answer has 4.5 s."""
_LOOK_SECONDS = 0.5
_MAX_PLACES = 64
_FEW = 0.1
"""The share of an upstream's requests from which on they are few."""


@dataclass(frozen=True, slots=True)
class Place:
    """An upstream, or a mirror of one."""

    registry: str
    """The upstream's name."""
    key: str
    """Where the configuration names it, `proxy.upstreams."docker.io"`."""
    settings: EndpointSettings

    @property
    def url(self) -> str:
        return self.settings.url


@dataclass(frozen=True, slots=True)
class OriginAnswer:
    """What came of asking one place. `kind`: `reached`, `denied`, `realm`, `forbidden`, `limited`, `missing`, `tls`,
    `plain`, `name`, `proxy`, `failing`, `unreachable`, `unreadable` or `hidden`, where this user may not read the
    credentials."""

    place: Place
    kind: str
    text: str = ""
    signed_in: bool = False
    """Whether this node has credentials for it."""
    seconds: float = 0.0
    """For how long it is to be left alone."""


def judge_origin(answer: OriginAnswer) -> list[Finding]:
    """What one place's answer means."""
    place, said = answer.place, answer.text
    name = f"{place.registry} ({place.url})"
    match answer.kind:
        case "reached":
            who = "takes this node's credentials" if answer.signed_in else "answers"
            return [*_judge_login(answer), Finding("origin-reached", "ok", f"{name} {who}.")]
        case "denied" if not answer.signed_in:
            text = f"{name} answers, and lets in nobody who does not sign in: clients need credentials of their own."
            return [*_judge_login(answer), Finding("origin-reached", "ok", text)]
        case "denied":
            text = f"{name} does not take this node's credentials; they are wrong or have expired: {said}."
            return [Finding("credentials-refused", "error", text, _renewal(place))]
        case "realm":
            text = f"{name} asks for a login, and names nobody who could be asked for a token: {said}."
            remedy = (
                f"`realm` in its answer (`curl -si {place.url}/v2/`) has to be a whole address; put that right at the "
                "registry, or at the proxy before it."
            )
            return [Finding("origin-realm", "error", text, remedy)]
        case "failing":
            remedy = (
                "Look at the registry's own log and at that of a load balancer before it, or wait: what the swarm "
                "holds is served meanwhile."
            )
            return [Finding("origin-failing", "error", f"{name} is out of order: {said}.", remedy)]
        case "forbidden":
            text = f"{name} refuses this machine, and does not ask for a login: {said}."
            remedy = (
                "Ask whose registry it is whether this machine's address may use it, or set "
                f"`{place.key}.http_proxy` to an HTTP proxy that may."
            )
            return [Finding("origin-forbidden", "error", text, remedy)]
        case "limited":
            return [_limited(place.registry, place.key, answer.seconds)]
        case "missing":
            text = f"{name} answers and is no registry: {said}."
            remedy = (
                f"Correct `{place.key}.url`: it is the address under which `/v2/` answers; where a page to sign in to "
                "the network answers in its place, sign in there."
            )
            return [Finding("origin-foreign", "error", text, remedy)]
        case "unreadable":
            text = f"The credentials or certificates for {name} cannot be used: {said}."
            remedy = (
                f"Put right what `{place.key}` names, readable for the daemon's user; a credential helper has to be on "
                "the daemon's PATH."
            )
            return [Finding("credentials-unreadable", "error", text, remedy)]
        case "hidden":
            text = f"Whether {name} takes this node's credentials could not be seen: {said}."
            remedy = "Run `shoal doctor` as root or as the daemon's user."
            return [Finding("credentials-unseen", "warning", text, remedy)]
        case "plain":
            remedy = f"Write `http://` in `{place.key}.url` where the registry is meant to speak plain HTTP."
            return [Finding("origin-plain", "error", f"{name} does not speak TLS there: {said}.", remedy)]
        case "tls":
            remedy = (
                f"Set `{place.key}.ca_file` to the certificate of the authority that signed the registry's; where the "
                "certificate has expired, it is the registry's to renew."
            )
            return [Finding("origin-tls", "error", f"{name} cannot be asked: {said}.", remedy)]
        case "name":
            remedy = (
                f"Put this machine's name server right (/etc/resolv.conf), or correct `{place.key}.url`; a token "
                "server's name is the registry's own to correct."
            )
            return [Finding("origin-name", "error", f"{name} cannot be asked: {said}.", remedy)]
        case "proxy":
            remedy = (
                f"Set `{place.key}.http_proxy` (or `proxy.https_proxy`) to an HTTP proxy that lets this node through, "
                "or to `none`."
            )
            return [Finding("origin-proxy", "error", f"{name} cannot be asked: {said}.", remedy)]
    remedy = (
        f"Let this machine through to {URL(place.url).host_port_subcomponent} and to the token server where one is "
        f"named, set `{place.key}.http_proxy` where an HTTP proxy leads there, or correct `{place.key}.url`."
    )
    return [Finding("origin-unreachable", "error", f"{name} cannot be asked: {said}.", remedy)]


def judge_limit(state: UpstreamState) -> list[Finding]:
    """What the daemon knows of an upstream's rate limit."""
    key = _key(state.registry)
    if state.quiet_seconds > 0:
        return [_limited(state.registry, key, state.quiet_seconds)]
    if state.limit and state.remaining is not None and state.remaining < _FEW * state.limit:
        text = f"{state.registry} lets this node ask {state.remaining} times more in its window, of {state.limit}."
        remedy = f"Sign in to it (`{key}.username` and `password_file`), or raise `proxy.tag_freshness`."
        return [Finding("origin-few-requests", "warning", text, remedy)]
    return []


def _limited(registry: str, key: str, seconds: float) -> Finding:
    rest = f" and is left alone for {format_age(seconds)}" if seconds else ""
    text = f"{registry} is at its rate limit (429){rest}."
    remedy = (
        f"Sign in to it, with an account that may ask more (`{key}.username` and `password_file`), or raise "
        "`proxy.tag_freshness`; else wait: what the swarm holds is served meanwhile."
    )
    return Finding("origin-limited", "error", text, remedy)


def _judge_login(answer: OriginAnswer) -> list[Finding]:
    settings = answer.place.settings
    if answer.signed_in or not settings.docker_config:
        return []
    text = f"{settings.docker_config} (`{answer.place.key}.docker_config`) holds no login for this registry."
    return [Finding("credentials-none", "warning", text, _renewal(answer.place))]


def _renewal(place: Place) -> str:
    """How this node's credentials are put right."""
    settings = place.settings
    if settings.docker_config:
        host = "" if place.registry == DOCKER_HUB else f" {place.registry}"
        return f"Run `docker login{host}` so that {settings.docker_config} holds what the registry takes now."
    if settings.password_file:
        return f"Put the password that the registry takes now into {settings.password_file}, and restart the daemon."
    return f"Set `{place.key}.username` and `{place.key}.password_file` to what it takes now; restart the daemon."


async def examine(subject: Subject) -> list[Finding]:
    """The part of the report."""
    settings = subject.configuration.proxy
    places = _places(settings)[:_MAX_PLACES]
    node, answers = await asyncio.gather(subject.node(), asyncio.gather(*(_ask(settings, place) for place in places)))
    found = [finding for answer in answers for finding in judge_origin(answer)]
    limited = [finding for state in (node.status.upstreams if node.status else []) for finding in judge_limit(state)]
    told = {finding.text.partition(" ")[0] for finding in found if finding.code == "origin-limited"}
    return found + [finding for finding in limited if finding.text.partition(" ")[0] not in told]


def _places(settings: ProxySettings) -> list[Place]:
    places = []
    for name, upstream in settings.upstreams.items():
        places.append(Place(name, _key(name), upstream))
        places += [
            Place(name, f"{_key(name)}.mirrors.{number}", mirror) for number, mirror in enumerate(upstream.mirrors)
        ]
    return places


def _key(registry: str) -> str:
    return dotted(("proxy", "upstreams", registry))


async def _ask(settings: ProxySettings, place: Place) -> OriginAnswer:
    """Ask a place for `/v2/`, as this node and by itself."""
    endpoint = place.settings
    is_mirror = not isinstance(endpoint, UpstreamSettings)
    name = parse_registry(URL(place.url).host_port_subcomponent or "") if is_mirror else Registry(place.registry)
    values = {field: getattr(endpoint, field) for field in EndpointSettings.__struct_fields__}
    alone = msgspec.structs.replace(
        settings, upstreams={name: UpstreamSettings(**values, sign_in=False)}, default_upstream=name
    )
    egress = Egress(settings.http_proxy, settings.https_proxy, settings.no_proxy, settings.own_http_proxies)
    is_direct = egress.proxy_for(URL(place.url), endpoint.http_proxy) is None
    looking = asyncio.create_task(_look_up(URL(place.url))) if is_direct else None
    try:
        async with asyncio.timeout(_SECONDS):
            credentials = await NodeCredentials(name, endpoint, time.monotonic).read()
            signed_in = credentials is not None
            board = LimitBoard(ProxyMetrics(CollectorRegistry()), None)
            async with UpstreamClient(alone, board) as client:
                try:
                    headers = await client.check(name, ANONYMOUS if credentials is None else credentials)
                except OriginError as error:
                    if isinstance(error, Unreachable) and looking is not None and await _is_waiting(looking):
                        return OriginAnswer(place, "name", "the name server does not answer", signed_in)
                    return OriginAnswer(place, _kind(error, signed_in), str(error), signed_in, _quiet(board, name))
    except CredentialsUnreadable as error:
        return OriginAnswer(place, "hidden" if _is_hidden(endpoint) else "unreadable", str(error))
    except TimeoutError:
        return OriginAnswer(place, "unreachable", f"no answer within {_SECONDS:g} s")
    finally:
        if looking is not None:
            looking.cancel()
    if _is_page(headers):
        return OriginAnswer(place, "missing", "a web page comes in the place of its answer", signed_in)
    return OriginAnswer(place, "reached", signed_in=signed_in)


async def _is_waiting(looking: asyncio.Task[None]) -> bool:
    """Whether the name server has not answered; a connection may be refused before an answer has been told of."""
    await asyncio.wait([looking], timeout=_LOOK_SECONDS)
    return not looking.done()


async def _look_up(url: URL) -> None:
    """Comes back as soon as the name server has answered, whatever that was."""
    with contextlib.suppress(OSError, UnicodeError):
        await asyncio.get_running_loop().getaddrinfo(url.host, url.port)


def _is_page(headers: Mapping[str, str]) -> bool:
    """Whether an answer to `GET /v2/` is a web page; some registries call theirs one, and say what they are besides."""
    return "Docker-Distribution-Api-Version" not in headers and "html" in headers.get("Content-Type", "")


def _kind(error: OriginError, signed_in: bool) -> str:
    """What an error of an upstream comes from, as `OriginAnswer` has it."""
    if isinstance(error, Limited):
        return "limited"
    if isinstance(error, NoTokenServer):
        return "realm"
    if isinstance(error, OriginDenied):
        return "forbidden" if error.is_forbidden and not (signed_in or error.challenges) else "denied"
    if isinstance(error, OriginNotFound):
        return "missing"
    if isinstance(error, Transient) and not error.__context__:
        return "failing"
    match error.__context__:
        case aiohttp.ClientConnectorSSLError(os_error=ssl.SSLError(reason="WRONG_VERSION_NUMBER")):
            return "plain"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return "tls"
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return "proxy"
        case aiohttp.ClientConnectorDNSError():
            return "name"
    return "unreachable"


def _quiet(board: LimitBoard, name: Registry) -> float:
    return max(0.0, board.quiet_until.get(name, 0.0) - time.monotonic())


def _is_hidden(endpoint: EndpointSettings) -> bool:
    """Whether this user may not read what the daemon's user may."""
    files = (endpoint.password_file, endpoint.docker_config, endpoint.ca_file, endpoint.cert_file, endpoint.key_file)
    return os.geteuid() != 0 and any(file and not os.access(file, os.R_OK) for file in files)
