"""buildkitd: `mirrors` of each registry in `buildkitd.toml`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import ClassVar

from shoal.cli.finding import Finding
from shoal.cli.runtimes.edits import NotEditable, without_blocks
from shoal.cli.runtimes.host import Host
from shoal.cli.runtimes.mirror import Mirror, is_local
from shoal.cli.runtimes.processes import option, readers
from shoal.cli.runtimes.runtime import Document, Runtime
from shoal.cli.runtimes.tomltext import Table, at, parsed, with_value

_FILE = PurePosixPath("/etc/buildkit/buildkitd.toml")


class Buildkit(Runtime):
    """A buildkitd of its own; the one inside of dockerd goes by docker's mirrors."""

    name: ClassVar[str] = "buildkit"
    then: ClassVar[tuple[str, ...]] = ("Restart buildkitd (`systemctl restart buildkit`); running builds are lost.",)

    def is_present(self, host: Host) -> bool:
        """See `Runtime`."""
        return host.has_program("buildkitd") or host.exists(_FILE)

    def documents(self, host: Host, mirror: Mirror) -> Sequence[Document]:
        """See `Runtime`."""
        names = [str(each.name) for each in mirror.upstreams]
        lack = f"{_FILE} does not name {mirror.host} first for {', '.join(names)}, so buildkitd pulls past it."
        return [Document(_FILE, without_blocks, lambda text: _with(text, names, mirror), f"{self.name}-mirror", lack)]

    def limits(self, host: Host, mirror: Mirror) -> list[Finding]:
        """See `Runtime`."""
        if not mirror.takes_any:
            return []
        text = "buildkitd has no mirror for registries that are not named."
        return [Finding("buildkit-named-only", "warning", text, "Name them, each with `--upstream`.")]

    def state(self, host: Host, mirror: Mirror) -> list[Finding]:
        """See `Runtime`."""
        found: list[Finding] = []
        for process in readers(host, "buildkitd", _FILE):
            other = option(process.arguments, "--config", "-config")
            if other not in {None, str(_FILE)}:
                text = f"A buildkitd (process {process.pid}) reads {other} instead of {_FILE}."
                remedy = f"Start it without `--config`, or put the lines of {_FILE} there."
                found.append(Finding("buildkit-other-config", "warning", text, remedy))
            elif process.is_older_than(host, _FILE):
                text = f"buildkitd (process {process.pid}) has not read {_FILE} since it was changed."
                found.append(Finding("buildkit-not-restarted", "error", text, self.then[0]))
        return found


def _with(text: str, names: Sequence[str], mirror: Mirror) -> str:
    if all(_is_told(parsed(text), name, mirror) for name in names):
        return text
    host = mirror.host
    for name in names:
        path = ("registry", name, "mirrors")
        mirrors = at(parsed(text), path) or []
        if not isinstance(mirrors, list):
            raise NotEditable(f'`registry."{name}".mirrors` is no list')
        if mirrors[:1] != [host]:
            text = with_value(text, path, [host, *(str(each) for each in mirrors if each != host)])
    return with_value(text, ("registry", host, "http"), True)


def _is_told(content: Table, registry: str, mirror: Mirror) -> bool:
    """Whether a registry's first mirror is the node, which may be followed by the registry's name, in plain HTTP:
    unless something else is said of it, buildkitd speaks so with a mirror on loopback."""
    mirrors = at(content, ("registry", registry, "mirrors"))
    host, _, path = str(next(iter(mirrors), "") if isinstance(mirrors, list) else "").partition("/")
    is_plain = at(content, ("registry", host, "http"))
    if is_plain is None:
        is_plain = is_local(host) and not at(content, ("registry", host, "insecure"))
    return mirror.is_host(host) and path in {"", registry} and is_plain is True
