"""Container runtimes: whether their files, and what runs, send pulls through the mirror."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from yarl import URL

from proxy.egress import Egress
from proxy.settings import ProxySettings
from shoal.cli.doctor.runtimestates import RuntimeState
from shoal.cli.doctor.subject import Subject
from shoal.cli.finding import Finding
from shoal.cli.runtimes import docker
from shoal.cli.runtimes.containerdconfig import read
from shoal.cli.runtimes.containerdstate import entry_of
from shoal.cli.runtimes.edits import NotEditable
from shoal.cli.runtimes.host import FileUnusable, Host
from shoal.cli.runtimes.mirror import Mirror, mirror_of
from shoal.cli.runtimes.processes import processes
from shoal.reference import parse_registry

_PROGRAMS = ("dockerd", "containerd", "crio", "buildkitd", "k3s", "rke2")
_UNITS = {"dockerd": "docker", "buildkitd": "buildkit", "rke2": "rke2-server"}
"""Units of systemd that are not called as their programs are."""
_SERVICE = re.compile(r"/([^/\s]+)\.service")
_PROC = Path("/proc")
_EVERY = "_default"
_PORT = re.compile(r"_([0-9]+)_$")
"""How containerd writes a registry's port in the name of its folder, `registry.example_5000_`."""


@dataclass(frozen=True, slots=True)
class Swallower:
    """A runtime's program whose HTTP proxy gets what the mirror was to get."""

    program: str
    source: str
    """What names that proxy."""
    exclusion: str
    """What names the hosts that are asked without it."""
    unit: str
    """What systemd calls it."""


def judge_runtimes(
    states: list[RuntimeState], swallowers: list[Swallower], unserved: list[str], mirror: Mirror
) -> list[Finding]:
    """What is wrong with the runtimes. Beside one that asks the mirror, another one may be meant to be left alone.

    `unserved`: registries for which containerd asks the mirror, and for which the node does not stand.
    """
    if not states:
        text = "No container runtime that Shoal knows is on this host."
        remedy = "Where one is, run `shoal config docker --write`, or containerd, podman, crio, k3s or buildkit."
        return [Finding("runtime-none", "warning", text, remedy)]
    is_used = any(state.is_configured for state in states)
    found: list[Finding] = []
    for state in states:
        if state.is_touched or not is_used:
            found += state.findings
        else:
            found += [replace(each, level="warning") if each.level == "error" else each for each in state.findings]
    if unserved:
        names = ", ".join(unserved)
        text = f"containerd asks the mirror for {names}, which the node does not stand for and refuses."
        remedy = (
            f"Name {names} in `proxy.upstreams` (or `--upstream`), and restart the daemon; or remove its hosts.toml."
        )
        found.append(Finding("containerd-unserved", "error", text, remedy))
    for each in swallowers:
        text = f"{each.program} asks the mirror {mirror.url} by way of an HTTP proxy, which {each.source} names."
        host = URL(mirror.url).host
        remedy = f"Add {host} to {each.exclusion}, and run `systemctl restart {each.unit}`."
        found.append(Finding("runtime-http-proxy", "error", text, remedy))
    return found


async def examine(subject: Subject) -> list[Finding]:
    """The part of the report."""
    host, settings = subject.host, subject.configuration.proxy
    mirror = mirror_of(settings)
    states, swallowers, unserved = await asyncio.gather(
        subject.runtimes(),
        asyncio.to_thread(_swallowers, host, mirror),
        asyncio.to_thread(_unserved, host, mirror, settings),
    )
    return judge_runtimes(states, swallowers, unserved, mirror)


def _unserved(host: Host, mirror: Mirror, settings: ProxySettings) -> list[str]:
    """Registries whose folder names the mirror, and which the configuration does not name."""
    found = []
    try:
        folder = read(host).folder
        for name in host.names(folder):
            registry = _PORT.sub(r":\1", name)
            if name == _EVERY or entry_of(host, folder / name, mirror) is None:
                continue
            if not settings.any_upstream and settings.upstream(parse_registry(registry)) is None:
                found.append(registry)
    except (FileUnusable, NotEditable):
        return []  # which the runtime's own check tells
    return found


def _swallowers(host: Host, mirror: Mirror) -> list[Swallower]:
    """Runtimes whose environment names an HTTP proxy for the mirror. Go's programs ask loopback directly always."""
    if mirror.is_local:
        return []
    found = []
    for process in processes(host, *_PROGRAMS):
        variable = _proxy_of(_environment(process.pid), mirror.url)
        if variable:
            program = Path(process.arguments[0]).name
            unit = _unit(process.pid, program)
            source = f"{variable} in the environment of process {process.pid}"
            found.append(Swallower(program, source, f"NO_PROXY in its environment (`systemctl edit {unit}`)", unit))
    try:
        address, excluded = docker.http_proxy(host)
    except (FileUnusable, NotEditable):
        return found  # which the runtime's own check tells
    if _proxy_of({"HTTP_PROXY": address, "NO_PROXY": excluded}, mirror.url):
        found.append(Swallower("dockerd", "`proxies` in daemon.json", "its `no-proxy` there", "docker"))
    return found


def _unit(pid: int, program: str) -> str:
    """The unit of systemd that a process belongs to; where that is not seen, the one that its program has as a rule."""
    try:
        found = _SERVICE.search((_PROC / str(pid) / "cgroup").read_text(errors="replace"))
    except OSError:
        found = None
    return found[1] if found else _UNITS.get(program, program)


def _environment(pid: int) -> dict[str, str]:
    try:
        words = (_PROC / str(pid) / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it has ended, or is somebody else's
        return {}
    return dict(word.split("=", 1) for word in words if "=" in word)


def _proxy_of(environment: Mapping[str, str], url: str) -> str:
    """The variable that sends what is meant for `url` elsewhere; empty where none does."""
    excluded = environment.get("NO_PROXY") or environment.get("no_proxy", "")
    entries = [part.strip() for part in excluded.split(",") if part.strip()]
    for variable in ("HTTP_PROXY", "http_proxy"):
        address = environment.get(variable, "")
        try:
            if address and Egress(address, "", entries, []).proxy_for(URL(url)) is not None:
                return variable
        except ValueError:  # an address that is none leads nowhere
            continue
    return ""
