"""containerd: a `hosts.toml` for each registry, in the folder that its `config.toml` names, or mirrors in that file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import ClassVar

from shoal.cli.finding import Finding
from shoal.cli.runtimes import containerdstate
from shoal.cli.runtimes.containerdconfig import CAPABILITIES, HOSTS, ConfigFile, ContainerdConfig, is_own, read
from shoal.cli.runtimes.edits import NotEditable, block, in_file, without_blocks
from shoal.cli.runtimes.host import Host
from shoal.cli.runtimes.mirror import Mirror, Upstream
from shoal.cli.runtimes.runtime import Document, Runtime
from shoal.cli.runtimes.tomltext import at, literal, parsed, with_first_table, with_value
from shoal.toml import dotted

_ANY = "_default"
_ANY_MIRROR = "*"
_OTHERS = ("kubelet", "nerdctl", "crictl")
"""Programs that pull by way of containerd itself; a host without them may have it for dockerd alone."""


class Containerd(Runtime):
    """containerd as Kubernetes' runtime and of nerdctl; ctr has to be told the folder with `--hosts-dir`."""

    name: ClassVar[str] = "containerd"
    then: ClassVar[tuple[str, ...]] = (
        "A changed hosts.toml counts from the next pull on; after a change of config.toml run "
        "`systemctl restart containerd`, by which no container is restarted.",
    )

    def is_present(self, host: Host) -> bool:
        """See `Runtime`."""
        is_asked = any(host.has_program(each) for each in _OTHERS) or not host.has_program("dockerd")
        return host.has_program("containerd") and (is_asked or host.exists(HOSTS))

    def documents(self, host: Host, mirror: Mirror) -> Sequence[Document]:
        """See `Runtime`."""
        config = read(host)
        if config.is_legacy:
            return [self._mirrors(config, mirror), *_stale(host, config, ())]
        wanted = _wanted(host, config, mirror)
        hosts = [
            self._hosts(host, folder, upstream, mirror)
            for folder, upstream in wanted.items()
            if not (config.is_two and containerdstate.is_server_alone(host, folder, mirror))
        ]
        return [self._config(config), *hosts, *_stale(host, config, wanted)]

    def limits(self, host: Host, mirror: Mirror) -> list[Finding]:
        """See `Runtime`."""
        config = read(host)
        is_refused = config.mirrors or (config.has_tls and config.is_two is False)
        if not (is_refused and config.config_path):
            return []
        key, what = ("mirrors", "mirrors") if config.mirrors else ("configs", "certificates")
        text = (
            f"{config.owner.path} has both `config_path` and {what} in `registry.{key}`, which containerd refuses: its "
            "CRI plugin does not start."
        )
        remedy = f"Move the {what} to hosts.toml files and remove `registry.{key}`, or remove `config_path`."
        return [Finding("containerd-mirrors-shadow", "error", text, remedy)]

    def state(self, host: Host, mirror: Mirror) -> list[Finding]:
        """See `Runtime`."""
        before, now = read(host), read(host, with_own=True)
        own = set(_wanted(host, before, mirror))
        return [
            *containerdstate.settings(host, now, before),
            *containerdstate.folders(host, now, mirror, own),
            *containerdstate.entries(host, now, mirror),
            *containerdstate.running(host, now, before),
        ]

    def _config(self, config: ContainerdConfig) -> Document:
        path = config.owner.path
        code = "containerd-config-path"
        lack = f"{path} does not tell containerd to read {config.folder}, so it pulls past the mirror."
        if config.has_colon:
            code = "containerd-config-path-colon"
            lack = (
                f"`config_path` of {path} holds a colon ({config.config_path}): containerd 2 takes that for one folder "
                "when it pulls by its transfer service, and finds no hosts.toml."
            )
        elif config.config_path and config.has_other_transfer_path:
            code = "containerd-transfer-path"
            lack = f"containerd's transfer service reads {config.transfer_path}, and not {config.folder}."
        return Document(path, without_blocks, config.with_config_path, code, lack)

    def _hosts(self, host: Host, folder: PurePosixPath, upstream: Upstream | None, mirror: Mirror) -> Document:
        path = folder / "hosts.toml"
        lack = f"{path} does not name {mirror.url} first, so containerd pulls from {folder.name} past it."
        if upstream is None:
            lack = f"{path} does not name {mirror.url} first, so containerd pulls from other registries past it."
        head = [f"server = {literal(upstream.url)}", *_certificates(folder, host.names(folder))] if upstream else []
        return Document(
            path,
            without_blocks,
            lambda text: _with_host(text, mirror, folder.name, head),
            "containerd-hosts",
            lack,
            owns_folder=True,
        )

    def _mirrors(self, config: ContainerdConfig, mirror: Mirror) -> Document:
        names = [*(str(each.name) for each in mirror.upstreams), *([_ANY_MIRROR] if mirror.takes_any else [])]
        lack = f"`registry.mirrors` of {config.owner.path} does not name {mirror.url} first for {', '.join(names)}."
        return Document(
            config.owner.path,
            without_blocks,
            lambda text: _with_mirrors(text, config.owner, names, mirror.url),
            "containerd-mirrors",
            lack,
        )


def _with_host(text: str, mirror: Mirror, registry: str, head: Sequence[str] = ()) -> str:
    """A registry's `hosts.toml` with the mirror before all other hosts, and `head` where it is a new one."""
    url = mirror.url
    if not text.strip():
        own = [f"[{dotted(('host', url))}]", f"capabilities = {literal(CAPABILITIES)}"]
        return text + block([*head, "", *own] if head else own)
    hosts = parsed(text).get("host", {})
    are_own = [is_own(str(each), mirror, registry) for each in hosts] if isinstance(hosts, dict) else []
    if are_own[:1] == [True]:
        return text
    if any(are_own):
        raise NotEditable(f"it names {url} itself, but behind others; put that first")
    return with_first_table(text, ("host", url), {"capabilities": CAPABILITIES})


def _with_mirrors(text: str, file: ConfigFile, names: Sequence[str], url: str) -> str:
    """A `config.toml` of the old layout with the mirror before all others."""
    is_any_told = _is_first(at(file.tables, (*file.registry_path, "mirrors", _ANY_MIRROR, "endpoint")), url)
    for name in names:
        path = (*file.registry_path, "mirrors", name, "endpoint")
        if is_any_told and at(file.tables, path[:-1]) is None:
            continue
        endpoints = at(parsed(text), path) or []
        if not isinstance(endpoints, list):
            raise NotEditable(f"`endpoint` of {name} is no list")
        if not _is_first(endpoints, url):
            others = [str(each) for each in endpoints if str(each).rstrip("/") != url]
            text = with_value(text, path, [url, *others])
    return text


def _is_first(endpoints: object, url: str) -> bool:
    """Whether a list of addresses begins with this one."""
    return isinstance(endpoints, list) and [str(each).rstrip("/") for each in endpoints[:1]] == [url]


def _certificates(folder: PurePosixPath, names: Sequence[str]) -> list[str]:
    """What a registry's folder says without a `hosts.toml`, which containerd no longer looks at beside one."""
    authorities = [str(folder / name) for name in names if name.endswith(".crt")]
    pairs = [(f"{folder / name}.cert", f"{folder / name}.key") for name in _stems(names)]
    lines = [f"ca = {literal(authorities)}"] if authorities else []
    return [*lines, f"client = {literal(pairs)}"] if pairs else lines


def _stems(names: Sequence[str]) -> list[str]:
    """The names of certificates that have a key."""
    stems = (name.removesuffix(".cert") for name in names if name.endswith(".cert"))
    return [stem for stem in stems if f"{stem}.key" in names]


def _folder(host: Host, root: PurePosixPath, name: str) -> str:
    """A registry's folder: containerd looks for `host_port_` before `host:port`."""
    bare, colon, port = name.rpartition(":")
    own = f"{bare}_{port}_" if colon else name
    return name if colon and host.exists(root / name) and not host.exists(root / own) else own


def _wanted(host: Host, config: ContainerdConfig, mirror: Mirror) -> dict[PurePosixPath, Upstream | None]:
    """The folders that need a `hosts.toml`, each with its registry; None for all that have no folder."""
    is_any_told = _is_any_told(host, config.folder / _ANY, mirror)
    places = {config.folder / _folder(host, config.folder, each.name): each for each in mirror.upstreams}
    folders: dict[PurePosixPath, Upstream | None] = {
        folder: upstream for folder, upstream in places.items() if not is_any_told or host.exists(folder)
    }
    return folders | ({config.folder / _ANY: None} if mirror.takes_any else {})


def _is_any_told(host: Host, folder: PurePosixPath, mirror: Mirror) -> bool:
    """Whether the `hosts.toml` of registries without a folder names the mirror first, and goes on to do so."""
    whole = host.text(folder / "hosts.toml") or ""
    try:
        text = whole if mirror.takes_any else without_blocks(whole)
        return bool(text.strip()) and _with_host(text, mirror, folder.name) == text
    except NotEditable:
        return False


def _stale(host: Host, config: ContainerdConfig, wanted: Collection[PurePosixPath]) -> list[Document]:
    """Files in which something of Shoal's is left that no longer belongs there."""
    folders = [root / name for root in dict.fromkeys((config.folder, HOSTS)) for name in host.names(root)]
    hosts = [folder / "hosts.toml" for folder in folders if folder not in wanted]
    configs = [file.path for file in config.files if file is not config.owner]
    return [
        Document(path, without_blocks, owns_folder=path in hosts)
        for path in (*configs, *hosts)
        if _has_blocks(path, host.text(path) or "")
    ]


def _has_blocks(path: PurePosixPath, text: str) -> bool:
    with in_file(path):
        return without_blocks(text) != text
