"""What besides mirrors decides whether containerd asks them: other settings, other folders, and what runs."""

from __future__ import annotations

from pathlib import PurePosixPath

from shoal.cli.finding import Finding, Level
from shoal.cli.runtimes.containerdconfig import CAPABILITIES, CONFIG, OPTIONS, ContainerdConfig, dumped, is_own, program
from shoal.cli.runtimes.edits import NotEditable, in_file
from shoal.cli.runtimes.host import FileUnusable, Host
from shoal.cli.runtimes.mirror import Mirror
from shoal.cli.runtimes.processes import option, output, readers
from shoal.cli.runtimes.tomltext import Table, literal, parsed

_CRI = {"cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"}
_OF_OTHERS = ("/run/docker", "/var/run/docker", "/var/lib/rancher", "/var/snap")
"""Where the configurations of a containerd lie that belongs to another runtime."""
_RESTART = "Run `systemctl restart containerd`; no container is restarted."
_CAPABILITIES = {*CAPABILITIES, "push"}
_WRITE = "Run `shoal config containerd --write`."


def settings(host: Host, now: ContainerdConfig, before: ContainerdConfig) -> list[Finding]:
    """Of the configuration as it is `now`, and as it was `before` Shoal."""
    found: list[Finding] = []
    if any(name in file.texts("disabled_plugins") for file in now.files for name in _CRI):
        text = f"{CONFIG} disables the CRI plugin: Kubernetes cannot pull by this containerd, and nerdctl alone does."
        remedy = "Take `cri` out of `disabled_plugins` where Kubernetes is to use it."
        found.append(Finding("containerd-cri-disabled", "warning", text, remedy))
    if now.mirrors and now.config_path and not (before.mirrors and before.config_path):
        text = f"{now.owner.path} has `registry.mirrors` beside `config_path`, so the CRI plugin does not start."
        found.append(Finding("containerd-mirrors-shadow", "error", text, _WRITE))
    elif now.mirrors and not now.config_path:
        text = f"{now.owner.path} names mirrors by `registry.mirrors`, which later versions of containerd drop."
        remedy = "Move them to hosts.toml files, remove them, and run `shoal config containerd --write`."
        found.append(Finding("containerd-old-layout", "warning", text, remedy))
    if len(before.roots) > 1:
        found += _several(host, now, before)
    if now.discards_layers:
        text = (
            "containerd drops layers that it has unpacked. Shoal's own store keeps them for other nodes; only what "
            "`peer.containerd` would offer is missing."
        )
        remedy = "Set `discard_unpacked_layers = false` where `peer.containerd` is used."
        found.append(Finding("containerd-discards-layers", "ok", text, remedy))
    return found


def _several(host: Host, now: ContainerdConfig, before: ContainerdConfig) -> list[Finding]:
    """Of a `config_path` that was written with several folders."""
    if len(now.roots) == 1:
        others = [str(each) for each in before.roots[1:] if host.names(each)]
        if not others:
            return []
        text = f"containerd no longer reads {', '.join(others)}, which stood behind {now.folder} in `config_path`."
        remedy = f"Move what is needed of it, such as certificates, to {now.folder}."
        return [Finding("containerd-other-folder", "warning", text, remedy)]
    if now.is_two and now.pulls_locally:
        text = (
            "`config_path` has several folders, which containerd 2 takes for one as soon as it pulls by its transfer "
            "service; another setting keeps it from that now."
        )
        remedy = f"Set `config_path` to {now.folder} alone."
        return [Finding("containerd-config-path-list", "warning", text, remedy)]
    return []


def folders(host: Host, config: ContainerdConfig, mirror: Mirror, own: set[PurePosixPath]) -> list[Finding]:
    """Of registries that have a folder of their own, for which `_default` does not count."""
    if not mirror.takes_any or config.is_legacy:
        return []
    others = [
        name
        for name in host.names(config.folder)
        if config.folder / name not in own and not entry_of(host, config.folder / name, mirror)
    ]
    if not others:
        return []
    text = f"{', '.join(others)} in {config.folder} are pulled past the mirror: `_default` does not count for them."
    remedy = "Name these registries in `proxy.upstreams`, or remove their folders."
    return [Finding("containerd-own-folders", "warning", text, remedy)]


def entry_of(host: Host, folder: PurePosixPath, mirror: Mirror) -> tuple[str, Table] | None:
    """How a registry's `hosts.toml` writes the mirror's address, and what it says of it; raises `NotEditable`."""
    hosts = _hosts(_content(host, folder))
    return next(((name, each) for name, each in hosts if is_own(name, mirror, folder.name)), None)


def entries(host: Host, config: ContainerdConfig, mirror: Mirror) -> list[Finding]:
    """Of how `hosts.toml` files name the mirror, and what they let it be asked for; all of it where they do not say."""
    found: list[Finding] = []
    for name in host.names(config.folder):
        folder = config.folder / name
        path, content, named = folder / "hosts.toml", _content(host, folder), entry_of(host, folder, mirror)
        if config.is_two and is_server_alone(host, folder, mirror):
            found.append(_no_fallback(path, name))
        if named is None:
            continue
        url, entry = named
        is_overridden, names_registry = entry.get("override_path") is True, not is_own(url, mirror)
        if names_registry and not is_overridden:
            text = f"{path} has containerd add `/v2` to the path of {url}, for which it gets nothing."
            remedy = f"Write `override_path = true` below it in {path}."
            found.append(Finding("containerd-override-path", "error", text, remedy))
        elif is_overridden and not names_registry and not url.rstrip("/").endswith("/v2"):
            text = f"{path} has containerd ask the mirror without `/v2` in the path, for which it gets nothing."
            remedy = f"Remove `override_path` below the mirror in {path}."
            found.append(Finding("containerd-override-path", "error", text, remedy))
        if is_own(str(content.get("server")), mirror, name):
            found.append(_no_fallback(path, name))
        lacking = [str(each) for each in _certificates(folder, content) if not _is_there(host, each)]
        if lacking:
            text = f"{path} names {', '.join(lacking)}, and there is no such file: containerd pulls nothing of {name}."
            remedy = f"Put it there, or take it out of `ca` and `client` in {path}."
            found.append(Finding("containerd-certificate", "error", text, remedy))
        found += _capabilities(path, name, entry)
    return found


def is_server_alone(host: Host, folder: PurePosixPath, mirror: Mirror) -> bool:
    """Whether a registry's `hosts.toml` names the mirror as the registry itself and no host: containerd 2 asks it then,
    and containerd 1 passes over the file. Raises `NotEditable`."""
    content = _content(host, folder)
    return "host" not in content and is_own(str(content.get("server")), mirror, folder.name)


def _no_fallback(path: PurePosixPath, registry: str) -> Finding:
    text = f"{path} names the mirror as `server`: when the node is down, nothing of {registry} is pulled."
    remedy = f"Name the registry itself as `server` in {path}, and run `shoal config containerd --write`."
    return Finding("containerd-no-fallback", "warning", text, remedy)


def _capabilities(path: PurePosixPath, name: str, entry: Table) -> list[Finding]:
    """Of what a `hosts.toml` lets the mirror be asked for; an empty list is as good as none."""
    may = entry.get("capabilities", [])
    known = [str(each).lower() for each in may] if isinstance(may, list) else ["a value that is no list"]
    lacking = [each for each in CAPABILITIES if each not in known] if known else []
    remedy = f"Write `capabilities = {literal(CAPABILITIES)}` below the mirror in {path}."
    unknown = [each for each in known if each not in _CAPABILITIES]
    if unknown:
        text = f"`capabilities` in {path} have {', '.join(unknown)}, for which containerd passes over the whole file."
        return [Finding("containerd-capabilities", "error", text, remedy)]
    if not lacking:
        return []
    missing = " and ".join(f"`{each}`" for each in lacking)
    text = f"{path} lets containerd ask the mirror without {missing}: it asks {name} for that."
    return [Finding("containerd-capabilities", "error" if "pull" in lacking else "warning", text, remedy)]


def _content(host: Host, folder: PurePosixPath) -> Table:
    path = folder / "hosts.toml"
    with in_file(path):
        return parsed(host.text(path) or "")


def _hosts(content: Table) -> list[tuple[str, Table]]:
    """What a `hosts.toml` says of each host, in order."""
    hosts = content.get("host")
    return [(name, each) for name, each in hosts.items() if isinstance(each, dict)] if isinstance(hosts, dict) else []


def _certificates(folder: PurePosixPath, content: Table) -> list[PurePosixPath]:
    """All files that a `hosts.toml` names, those of other hosts too: containerd reads all before it asks any."""
    tables = [content, *(each for _, each in _hosts(content))]
    return [folder / name for table in tables for key in ("ca", "client") for name in _texts(table.get(key)) if name]


def _texts(value: object) -> list[str]:
    """The texts in a value, which may be one or lie in lists."""
    if isinstance(value, str):
        return [value]
    return [text for each in value for text in _texts(each)] if isinstance(value, list) else []


def _is_there(host: Host, path: PurePosixPath) -> bool:
    """Whether a file is there, or lies where whoever asks may not look."""
    try:
        return host.exists(path)
    except FileUnusable:
        return True


def running(host: Host, now: ContainerdConfig, before: ContainerdConfig) -> list[Finding]:
    """Of the containerd that runs, and of what its program makes of the files."""
    found: list[Finding] = []
    for process in readers(host, "containerd", CONFIG):
        other = option(process.arguments, *OPTIONS)
        if other is not None and other.startswith(_OF_OTHERS):
            continue
        if other not in {None, str(CONFIG)}:
            text = f"A containerd (process {process.pid}) reads {other} instead of {CONFIG}."
            remedy = f'Set `config_path = "{now.folder}"` there too, or start it without `--config`.'
            found.append(Finding("containerd-other-config", "warning", text, remedy))
        elif process.is_older_than(host, now.owner.path):
            level: Level = "warning" if now.config_path == before.config_path else "error"
            text = f"containerd (process {process.pid}) has not read {now.owner.path} since it was changed."
            found.append(Finding("containerd-not-restarted", level, text, _RESTART))
    return found + _effective(host, now)


def _effective(host: Host, now: ContainerdConfig) -> list[Finding]:
    """Whether containerd's own reading of the files is the same."""
    text = output(program(host), "--config", str(CONFIG), "config", "dump") if host.is_running else None
    if text is None or now.is_legacy or not now.config_path:
        return []
    try:
        effective = dumped(text)
    except NotEditable:
        return []
    if effective.owner.of_cri("registry") is None or now.folder in effective.roots:
        return []
    read = effective.config_path or "no folder at all"
    said = f"`containerd config dump` says that it reads {read}, and not {now.folder}."
    remedy = f"Look for `config_path` in what {CONFIG} imports, and set it to {now.folder}."
    return [Finding("containerd-reads-other-path", "error", said, remedy)]
