"""dockerd: `registry-mirrors` in its `daemon.json`, which it asks for Docker Hub's images alone."""

from __future__ import annotations

import http.client
import ipaddress
import json
import re
import socket
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, ClassVar
from urllib.parse import urlsplit

from shoal.cli.finding import Finding
from shoal.cli.runtimes.edits import NotEditable
from shoal.cli.runtimes.host import Host
from shoal.cli.runtimes.mirror import Mirror, is_local
from shoal.cli.runtimes.plan import Plan
from shoal.cli.runtimes.processes import option, readers
from shoal.cli.runtimes.runtime import Document, Runtime
from shoal.redaction import redacted
from shoal.reference import DOCKER_HUB

_FILE = PurePosixPath("/etc/docker/daemon.json")
_SOCKET = PurePosixPath("/var/run/docker.sock")
_SYSTEMD = tuple(map(PurePosixPath, ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system")))
"""Where units lie; of two with one name the first counts."""
_UNIT = "docker.service"
_FLAG = re.compile(r"""--registry-mirror[=\s]\s*["']?([^\s"']+)""")
_MIRRORS, _INSECURE = "registry-mirrors", "insecure-registries"
_INDENT = re.compile(r"\n([ \t]+)\S")
_ANSWER_SECONDS = 3.0

_RESTART = (
    "Run `systemctl restart docker`: a reload does not make it drop its last mirror. Its containers are restarted, "
    "unless `live-restore` is set."
)
_TUNNEL = (
    "Docker asks mirrors for docker.io alone; for other registries use forward-proxy mode: set `proxy.tunnel.enabled`, "
    "and give dockerd the proxy as HTTPS_PROXY and the certificate of `shoal config ca`."
)


class Docker(Runtime):
    """dockerd, and what builds inside of it."""

    name: ClassVar[str] = "docker"
    then: ClassVar[tuple[str, ...]] = ("Run `systemctl reload docker`; no container is restarted.",)

    def is_present(self, host: Host) -> bool:
        """See `Runtime`."""
        return host.has_program("dockerd") or host.exists(_FILE)

    def documents(self, host: Host, mirror: Mirror) -> Sequence[Document]:
        """See `Runtime`."""
        lack = f"{_FILE} does not name {mirror.url} as the first of `{_MIRRORS}`, so docker pulls past it."
        insecure = () if mirror.is_local else (mirror.host,)
        is_needed = mirror.upstream(DOCKER_HUB) is not None and not _is_flag(host, mirror)
        merge = (lambda text: _with(text, mirror)) if is_needed else None
        return [
            Document(
                _FILE,
                lambda text: _without(text, mirror.url, insecure),
                merge,
                "docker-mirror",
                lack,
                is_unmarked=True,
            )
        ]

    def undo(self, host: Host, mirror: Mirror) -> Plan:
        """See `Runtime`; a dockerd that reads its file again keeps mirrors that no longer stand there."""
        plan = super().undo(host, mirror)
        keeps_none = any(not _list(_parsed(each.new or ""), _MIRRORS) for each in plan.changes)
        return replace(plan, then=(_RESTART,)) if keeps_none else plan

    def limits(self, host: Host, mirror: Mirror) -> list[Finding]:
        """See `Runtime`."""
        found: list[Finding] = []
        for path in [] if _is_flag(host, mirror) else _flags(host):
            text = f"{path} names mirrors as a flag; dockerd does not start when {_FILE} names some too."
            remedy = (
                f"Move its mirrors to {_FILE}, run `systemctl daemon-reload` and `shoal config docker --write`, and "
                "restart docker."
            )
            found.append(Finding("docker-mirror-flag", "error", text, remedy))
        others = [each.name for each in mirror.upstreams if each.name != DOCKER_HUB]
        if mirror.upstream(DOCKER_HUB) is None:
            text = f"Docker cannot be told to ask a mirror for {', '.join(others)}."
            found.append(Finding("docker-other-registry", "error", text, _TUNNEL))
        elif others:
            text = f"Docker pulls from {', '.join(others)} past the mirror."
            found.append(Finding("docker-other-registry", "warning", text, _TUNNEL))
        if mirror.default != DOCKER_HUB:
            text = f"Docker does not say which registry it means, and the proxy takes that for {mirror.default}."
            remedy = f'Set `proxy.default_upstream = "{DOCKER_HUB}"`.'
            found.append(Finding("docker-default-upstream", "error", text, remedy))
        return found

    def state(self, host: Host, mirror: Mirror) -> list[Finding]:
        """See `Runtime`."""
        found: list[Finding] = []
        invalid = [each for each in _list(_parsed(host.text(_FILE) or ""), _MIRRORS) if not _is_valid(each)]
        if invalid:
            text = f"dockerd does not start with {redacted(', '.join(invalid))} among `{_MIRRORS}` of {_FILE}."
            remedy = "Write it as `http://host:port` or `https://host:port` without a path, or remove it."
            found.append(Finding("docker-mirror-invalid", "error", text, remedy))
        for process in readers(host, "dockerd", _FILE):
            other = option(process.arguments, "--config-file")
            if other not in {None, str(_FILE)}:
                text = f"A dockerd (process {process.pid}) reads {other} instead of {_FILE}."
                found.append(Finding("docker-other-config", "warning", text, f"Put `{_MIRRORS}` into {other} too."))
        mirrors = _running_mirrors(host)
        if mirrors is not None and not any(map(mirror.is_at, mirrors[:1])):
            text = f"The running dockerd asks {', '.join(mirrors) or 'no mirror'} and not {mirror.url} first."
            found.append(Finding("docker-not-reloaded", "error", text, "Run `systemctl reload docker`."))
        return found


def _with(text: str, mirror: Mirror) -> str:
    settings = _parsed(text)
    mirrors, insecure = _list(settings, _MIRRORS), _list(settings, _INSECURE)
    wanted = dict(settings)
    place = mirrors[0].rstrip("/").partition("://")[2] if any(map(mirror.is_at, mirrors[:1])) else ""
    if not place:
        wanted[_MIRRORS] = [mirror.url, *(each for each in mirrors if not mirror.is_at(each))]
        place = mirror.host
    if not is_local(place) and not any(_covers(entry, place) for entry in insecure):
        wanted[_INSECURE] = [*insecure, place]
    return text if wanted == settings else _dumped(wanted, text)


def _without(text: str, url: str, insecure: Sequence[str]) -> str:
    settings = _parsed(text)
    wanted = dict(settings)
    for key, own in ((_MIRRORS, [url]), (_INSECURE, insecure)):
        values = _list(settings, key)
        left = [each for each in values if each.rstrip("/") not in own]
        if left:
            wanted[key] = left
        elif values:
            del wanted[key]
    if wanted == settings:
        return text
    return _dumped(wanted, text) if wanted else ""


def _covers(entry: str, place: str) -> bool:
    """Whether one of `insecure-registries`, which may be a subnet, lets dockerd speak plain HTTP with `host:port`."""
    try:
        return ipaddress.ip_address(str(urlsplit(f"//{place}").hostname)) in ipaddress.ip_network(entry, strict=False)
    except ValueError:  # of names
        return entry == place


def _parsed(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotEditable(f"it is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise NotEditable("it is no JSON object")
    return value


def _list(settings: dict[str, Any], key: str) -> list[str]:
    values = settings.get(key, [])
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise NotEditable(f"`{key}` is no list of texts")
    return values


def _dumped(settings: dict[str, Any], former: str) -> str:
    """As JSON with the indentation that there was."""
    found = _INDENT.search(former)
    text = json.dumps(settings, indent=found[1] if found else 2, ensure_ascii=False)
    return text + ("\n" if former.endswith("\n") or not former else "")


def http_proxy(host: Host) -> tuple[str, str]:
    """The HTTP proxy in `daemon.json`, and the hosts that dockerd asks without it; both empty where there is none.

    Raises `NotEditable` and `FileUnusable`.
    """
    proxies = _parsed(host.text(_FILE) or "").get("proxies")
    if not isinstance(proxies, dict):
        return "", ""
    return str(proxies.get("http-proxy") or ""), str(proxies.get("no-proxy") or "")


def _is_flag(host: Host, mirror: Mirror) -> bool:
    """Whether dockerd's flags name the mirror first, and its file no other one."""
    mirrors = [each for found in _flags(host).values() for each in found]
    return any(map(mirror.is_at, mirrors[:1])) and not _list(_parsed(host.text(_FILE) or ""), _MIRRORS)


def _flags(host: Host) -> dict[PurePosixPath, list[str]]:
    """Mirrors that dockerd's unit names as flags, by its files, as far as they count (systemd.unit(5))."""
    units = [folder / _UNIT for folder in _SYSTEMD if host.exists(folder / _UNIT)][:1]
    folders = [folder / f"{_UNIT}.d" for folder in _SYSTEMD]
    drop_ins = {name: folder / name for folder in reversed(folders) for name in host.names(folder)}
    found: dict[PurePosixPath, list[str]] = {}
    variables: list[PurePosixPath] = []
    for path in [*units, *(drop_ins[name] for name in sorted(drop_ins) if name.endswith(".conf"))]:
        for line in _statements(host, path):
            key, _, value = line.partition("=")
            if key.rstrip() == "ExecStart" and not value.strip():
                found.clear()
            elif key.rstrip() == "EnvironmentFile":
                variables.append(PurePosixPath(value.strip().removeprefix("-")))
            elif mirrors := _FLAG.findall(line):
                found.setdefault(path, []).extend(mirrors)
    for path in variables:
        if path.is_absolute() and (mirrors := _FLAG.findall("\n".join(_statements(host, path)))):
            found[path] = mirrors
    return found


def _statements(host: Host, path: PurePosixPath) -> list[str]:
    """Its lines without comments."""
    lines = (line.strip() for line in (host.text(path) or "").splitlines())
    return [line for line in lines if not line.startswith(("#", ";"))]


def _is_valid(mirror: str) -> bool:
    """Whether dockerd takes it for a mirror: else it does not start."""
    try:
        url = urlsplit(mirror)
    except ValueError:
        return False
    is_bare = url.path in {"", "/"} and not (url.query or url.fragment or url.username or url.password)
    return url.scheme in {"http", "https"} and bool(url.hostname) and is_bare and mirror == mirror.strip()


def _running_mirrors(host: Host) -> list[str] | None:
    """What the running dockerd says of its mirrors; None where none answers."""
    if not host.is_running:
        return None
    try:
        with closing(http.client.HTTPConnection("localhost")) as connection:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(_ANSWER_SECONDS)
            connection.sock.connect(str(_SOCKET))
            connection.request("GET", "/info")
            told = json.loads(connection.getresponse().read())
        return [str(each) for each in told["RegistryConfig"]["Mirrors"] or []]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
