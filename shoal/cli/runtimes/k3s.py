"""k3s and RKE2: `registries.yaml`, from which they make the files of their own containerd when they start."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import ClassVar

from shoal.cli.finding import Finding
from shoal.cli.runtimes.containerdconfig import is_own
from shoal.cli.runtimes.edits import NotEditable, without_blocks
from shoal.cli.runtimes.host import Host
from shoal.cli.runtimes.mirror import Mirror
from shoal.cli.runtimes.runtime import Document, Runtime
from shoal.cli.runtimes.yamltext import parsed, with_lists

_ALL = "*"
_HOST = re.compile(r'"http://([^/"]+)')
_TEMPLATES = ("config.toml.tmpl", "config-v3.toml.tmpl")
_KEEPS = ('template "base"', "config_path")
"""One of which a template has that reads what is made of `registries.yaml`."""


class K3s(Runtime):
    """k3s, on servers and agents."""

    name: ClassVar[str] = "k3s"
    then: ClassVar[tuple[str, ...]] = (
        "Run `systemctl restart k3s`, on agents `systemctl restart k3s-agent`; containers go on running.",
    )

    @property
    def _file(self) -> PurePosixPath:
        return PurePosixPath("/etc/rancher", self.name, "registries.yaml")

    @property
    def _made(self) -> PurePosixPath:
        """Where it puts what it makes for its containerd."""
        return PurePosixPath("/var/lib/rancher", self.name, "agent/etc/containerd")

    def is_present(self, host: Host) -> bool:
        """See `Runtime`."""
        return host.has_program(self.name) or host.exists(self._made) or host.exists(self._file.parent)

    def documents(self, host: Host, mirror: Mirror) -> Sequence[Document]:
        """See `Runtime`."""
        names = [*(str(each.name) for each in mirror.upstreams), *([_ALL] if mirror.takes_any else [])]
        lack = f"{self._file} does not name {mirror.url} first for {', '.join(names)}, so {self.name} pulls past it."
        return [
            Document(self._file, without_blocks, lambda text: _with(text, names, mirror), f"{self.name}-mirror", lack)
        ]

    def state(self, host: Host, mirror: Mirror) -> list[Finding]:
        """See `Runtime`."""
        found: list[Finding] = []
        for file in _TEMPLATES:
            template = host.text(self._made / file)
            if template is not None and not any(word in template for word in _KEEPS):
                text = f"{self._made / file} makes containerd's configuration without what {self._file.name} says."
                remedy = 'Begin it with `{{ template "base" . }}`, and restart ' + f"{self.name}."
                found.append(Finding(f"{self.name}-template", "error", text, remedy))
        for registry, entry in _mirrors(host.text(self._file) or "").items():
            is_asked = any(is_own(each, mirror, registry) for each in _endpoints(entry))
            if is_asked and isinstance(entry, dict) and entry.get("rewrite"):
                text = (
                    f"`rewrite` of {registry} in {self._file} changes the names that {self.name} asks the mirror for."
                )
                remedy = f"Remove it where {registry} itself has its images under the names that they are pulled by."
                found.append(Finding(f"{self.name}-rewrite", "warning", text, remedy))
        folder = self._made / "certs.d"
        name = next((each.name for each in mirror.upstreams if ":" not in each.name), None)
        if name is not None and host.exists(self._made):
            hosts = (folder / place / "hosts.toml" for place in (name, "_default"))
            made = next(filter(None, map(host.text, (*hosts, self._made / "config.toml"))), "")
            if not any(map(mirror.is_host, _HOST.findall(made))):
                text = f"What {self.name} made for its containerd when it started does not name {mirror.url}."
                found.append(Finding(f"{self.name}-not-restarted", "error", text, self.then[0]))
        return found


class Rke2(K3s):
    """RKE2, which has its files in other folders."""

    name: ClassVar[str] = "rke2"
    then: ClassVar[tuple[str, ...]] = (
        "Run `systemctl restart rke2-server`, on agents `systemctl restart rke2-agent`; containers go on running.",
    )


def _with(text: str, names: Sequence[str], mirror: Mirror) -> str:
    mirrors = _mirrors(text)
    is_any_told = _ALL not in names and _is_first(_endpoints(mirrors.get(_ALL)), mirror, _ALL)
    wanted = [name for name in names if not is_any_told or name in mirrors]
    lists = {name: _with_first(_endpoints(mirrors.get(name)), mirror, name) for name in wanted}
    return with_lists(text, "mirrors", "endpoint", lists)


def _mirrors(text: str) -> dict[str, object]:
    mirrors = parsed(text).get("mirrors") or {}
    if not isinstance(mirrors, dict):
        raise NotEditable("`mirrors` is no mapping")
    return mirrors


def _endpoints(entry: object) -> list[str]:
    """Those of one registry."""
    endpoints = entry.get("endpoint") if isinstance(entry, dict) else None
    return [str(each) for each in endpoints] if isinstance(endpoints, list) else []


def _with_first(endpoints: list[str], mirror: Mirror, registry: str) -> list[str]:
    """These, the mirror before all others."""
    if _is_first(endpoints, mirror, registry):
        return endpoints
    return [mirror.url, *(each for each in endpoints if not mirror.is_at(each))]


def _is_first(endpoints: list[str], mirror: Mirror, registry: str) -> bool:
    return any(is_own(each, mirror, registry) for each in endpoints[:1])
