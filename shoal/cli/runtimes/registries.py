"""podman and CRI-O, and with podman buildah and skopeo: a file of Shoal's own in `registries.conf.d`.

A later file's entry for a registry takes the place of an earlier one's as a whole (containers-registries.conf.d(5)), so
Shoal's repeats what others say of the registry, with its mirror before theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar

from shoal.cli.finding import Finding
from shoal.cli.runtimes.edits import in_file
from shoal.cli.runtimes.host import FileUnusable, Host
from shoal.cli.runtimes.mirror import Mirror, Upstream
from shoal.cli.runtimes.runtime import Document, Runtime
from shoal.cli.runtimes.tomltext import literal, parsed
from shoal.reference import Registry

_MAIN = PurePosixPath("/etc/containers/registries.conf")
_FOLDER = PurePosixPath("/etc/containers/registries.conf.d")
_FILE = _FOLDER / "zz-shoal.conf"
_OWN = "# Shoal's, written by `shoal config`; what belongs to a registry besides is repeated from the files before."

_ALL = "all"
"""What is pulled from a mirror where `pull-from-mirror` does not say it."""

_Entry = dict[str, Any]


class _Containers(Runtime):
    """A runtime that reads `registries.conf`."""

    def documents(self, host: Host, mirror: Mirror) -> Sequence[Document]:
        """See `Runtime`."""
        named = [each for each in mirror.upstreams if _place(mirror, each)]
        others = _registries(host)
        text = _text(mirror, named, others)
        lack = f"{_FILE} does not name {mirror.url} before all other mirrors, so {self.name} pulls past it."
        merge = None if not named or all(_has(mirror, each, others) for each in named) else lambda _: text
        return [Document(_FILE, lambda text: "" if text.startswith(_OWN) else text, merge, f"{self.name}-mirror", lack)]

    def limits(self, host: Host, mirror: Mirror) -> list[Finding]:
        """See `Runtime`."""
        found: list[Finding] = []
        for upstream in mirror.upstreams:
            if _place(mirror, upstream) is None:
                text = f"{self.name} cannot name {upstream.name} in the path of the mirror, since it holds a port."
                remedy = f"""Give it another name: `aliases = ["NAME"]` in `proxy.upstreams."{upstream.name}"`."""
                found.append(Finding(f"{self.name}-no-alias", "error", text, remedy))
        if mirror.takes_any:
            text = f"{self.name} has no mirror for registries that are not named."
            found.append(Finding(f"{self.name}-named-only", "warning", text, "Name them, each with `--upstream`."))
        for path in (_MAIN, *_drop_ins(host)):
            with in_file(path):
                content = parsed(host.text(path) or "")
            if not isinstance(content.get("registries"), dict):
                continue
            text = f"{path} is of version 1, beside which {self.name} takes no file of version 2."
            remedy = "Rewrite it with `unqualified-search-registries` and `[[registry]]`."
            found.append(Finding(f"{self.name}-old-registries", "error", text, remedy))
        return found

    def state(self, host: Host, mirror: Mirror) -> list[Finding]:
        """See `Runtime`."""
        found: list[Finding] = []
        for path in _drop_ins(host):
            later = [each for each in _of(host, path) if path > _FILE and mirror.upstream(Registry(each["prefix"]))]
            for registry in later:
                text = f"{path} is read after {_FILE.name} and takes its place for {registry['prefix']}."
                remedy = (
                    f"Rename {path} so that it comes before {_FILE.name}, and run `shoal config {self.name} --write`."
                )
                found.append(Finding(f"{self.name}-shadowed", "error", text, remedy))
        for registry in _registries(host, with_later=True):
            prefix = str(registry["prefix"])
            if mirror.upstream(Registry(prefix)) and registry.get("blocked") is True:
                text = f"{prefix} is blocked: {self.name} pulls nothing of it, not from the mirror either."
                remedy = f"Remove `blocked` of {prefix} in {_MAIN.parent}, and run `shoal config {self.name} --write`."
                found.append(Finding(f"{self.name}-blocked", "error", text, remedy))
            if mirror.upstream(Registry(prefix)) and _is_at(mirror, registry):
                text = f"The `location` of {prefix} is the mirror: when the node is down, nothing of it is pulled."
                remedy = f'Write `location = "{prefix}"` there, and run `shoal config {self.name} --write`.'
                found.append(Finding(f"{self.name}-no-fallback", "warning", text, remedy))
            own = _own(mirror, registry)
            if mirror.upstream(Registry(prefix)) and own.get("pull-from-mirror", _ALL) != _ALL:
                text = f"`pull-from-mirror` keeps {self.name} from asking the mirror for all of {prefix}."
                remedy = f"Remove it from the entry of {own['location']}."
                found.append(Finding(f"{self.name}-pull-from-mirror", "warning", text, remedy))
            if mirror.upstream(Registry(prefix)) and registry.get("mirror-by-digest-only"):
                text = (
                    f"`mirror-by-digest-only` keeps what a tag of {prefix} stands for from being asked of the mirror."
                )
                remedy = f'Remove it, and write `pull-from-mirror = "digest-only"` to the other mirrors of {prefix}.'
                found.append(Finding(f"{self.name}-digest-only", "warning", text, remedy))
            below = next((each.name for each in mirror.upstreams if prefix.startswith(f"{each.name}/")), None)
            if below is not None and not own:
                text = f"What begins with {prefix} is pulled as its own entry says, and not as that of {below}."
                remedy = f"""Give `prefix = "{prefix}"` the mirror {mirror.host} too, or remove it."""
                found.append(Finding(f"{self.name}-longer-prefix", "warning", text, remedy))
        return found


class Podman(_Containers):
    """podman, buildah and skopeo; each run reads its files."""

    name: ClassVar[str] = "podman"
    then: ClassVar[tuple[str, ...]] = ("Nothing needs a restart: podman, buildah and skopeo read it at each pull.",)

    def is_present(self, host: Host) -> bool:
        """See `Runtime`."""
        return any(host.has_program(program) for program in ("podman", "buildah", "skopeo"))

    def state(self, host: Host, mirror: Mirror) -> list[Finding]:
        """See `Runtime`."""
        found = super().state(host, mirror)
        homes = [PurePosixPath("/root"), *(PurePosixPath("/home", name) for name in host.names(PurePosixPath("/home")))]
        for home in homes:
            own = home / ".config/containers/registries.conf"
            if _is_seen(host, own):
                text = f"{home.name}'s own {own} takes the place of all files in /etc/containers."
                remedy = "Remove it, or move it to registries.conf.d beside it."
                found.append(Finding("podman-user-file", "warning", text, remedy))
            folder = own.with_name(f"{own.name}.d")
            for path in (folder / name for name in _names(host, folder) if name.endswith(".conf")):
                others = [each["prefix"] for each in _of(host, path) if not _own(mirror, each)]
                names = [name for name in others if mirror.upstream(Registry(name))]
                if names:
                    text = f"{home.name}'s own {path} takes the place of what {_FILE} says of {', '.join(names)}."
                    remedy = f"Remove these entries, or give them the mirror {mirror.host}, too."
                    found.append(Finding("podman-user-file", "warning", text, remedy))
        return found


class CriO(_Containers):
    """CRI-O, which reads the same files."""

    name: ClassVar[str] = "crio"
    then: ClassVar[tuple[str, ...]] = ("Run `systemctl reload crio`; no container is restarted.",)

    def is_present(self, host: Host) -> bool:
        """See `Runtime`."""
        return host.has_program("crio") or host.exists(PurePosixPath("/etc/crio"))


def _is_seen(host: Host, path: PurePosixPath) -> bool:
    """Whether there is a file, where whoever asks may know."""
    try:
        return host.exists(path)
    except FileUnusable:
        return False


def _names(host: Host, folder: PurePosixPath) -> list[str]:
    """What is in a folder, where whoever asks may know."""
    try:
        return list(host.names(folder))
    except FileUnusable:
        return []


def _drop_ins(host: Host) -> list[PurePosixPath]:
    return [_FOLDER / name for name in host.names(_FOLDER) if name.endswith(".conf") and name != _FILE.name]


def _of(host: Host, path: PurePosixPath) -> Iterator[_Entry]:
    """The entries of one file, each with its `prefix`; of two for one prefix the first counts."""
    with in_file(path):
        entries = parsed(host.text(path) or "").get("registry", [])
    seen: set[str] = set()
    for entry in _tables(entries):
        prefix = str(entry.get("prefix") or entry.get("location") or "").rstrip("/")
        if prefix not in seen:
            seen.add(prefix)
            yield {**entry, "prefix": prefix, "mirror": _tables(entry.get("mirror"))}


def _tables(value: object) -> list[_Entry]:
    """Those of a list, whatever stands there."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _registries(host: Host, *, with_later: bool = False) -> list[_Entry]:
    """The entries of all files but Shoal's, those that count; without `with_later` of those that are read before it."""
    files = [_MAIN, *(path for path in _drop_ins(host) if path < _FILE or with_later)]
    return list({each["prefix"]: each for path in files for each in _of(host, path)}.values())


def _place(mirror: Mirror, upstream: Upstream) -> str | None:
    """Where the mirror has this registry's images; None where that cannot be said."""
    if upstream.segment is not None:
        return f"{mirror.host}/{upstream.segment}"
    return mirror.host if upstream.name == mirror.default else None


def _has(mirror: Mirror, upstream: Upstream, registries: Sequence[_Entry]) -> bool:
    """Whether somebody else has named the mirror first."""
    entry = next((each for each in registries if each["prefix"] == upstream.name), {})
    first: _Entry = next(iter(entry.get("mirror", [])), entry)
    host, _, segment = str(first.get("location")).partition("/")
    segments = {upstream.segment} | ({""} if upstream.name == mirror.default else set())
    return mirror.is_host(host) and segment in segments and first.get("insecure") is True


def _own(mirror: Mirror, registry: _Entry) -> _Entry:
    """What a registry's entry says of the mirror; empty where it does not name it."""
    entries: list[_Entry] = registry["mirror"]
    return next((each for each in entries if _is_at(mirror, each)), {})


def _is_at(mirror: Mirror, place: _Entry) -> bool:
    """Whether an entry's location is the mirror."""
    return mirror.is_host(str(place.get("location")).partition("/")[0])


def _text(mirror: Mirror, upstreams: Sequence[Upstream], others: Sequence[_Entry]) -> str:
    lines = [_OWN]
    for upstream in upstreams:
        known = next((each for each in others if each["prefix"] == upstream.name), None)
        entry = dict(known or {"location": str(upstream.name), "insecure": upstream.url == f"http://{upstream.name}"})
        place = _place(mirror, upstream)
        own = {"location": place, "insecure": True}
        mirrors = [own, *(each for each in entry.pop("mirror", []) if each.get("location") != place)]
        lines += ["", "[[registry]]", *_fields({**entry, "prefix": str(upstream.name)})]
        for each in mirrors:
            lines += ["[[registry.mirror]]", *_fields(each)]
    return "".join(f"{line}\n" for line in lines)


def _fields(table: _Entry) -> list[str]:
    """Its texts and switches; these files have no others."""
    return [
        f"{key} = {literal(value)}"
        for key, value in table.items()
        if isinstance(value, str) or (isinstance(value, bool) and value)
    ]
