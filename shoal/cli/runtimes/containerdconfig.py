"""What containerd's own configuration says of registries, over all files that it is made of.

From containerd's source, 1.6 to 2.4: versions 1 and 2 of the file have the CRI plugin in one table, version 3 has its
images in a table of their own. What `imports` names is read behind the file itself; in containerd 1 a plugin's table
there takes the place of the former one, in containerd 2 they are merged. `config_path` may hold several folders with
colons between them, but containerd 2.1 to 2.4 take them for one when they pull by the transfer service, as they do by
default.
"""

from __future__ import annotations

import posixpath
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from shoal.cli.runtimes.edits import NotEditable, block, in_file, without_blocks
from shoal.cli.runtimes.host import Host
from shoal.cli.runtimes.mirror import Mirror
from shoal.cli.runtimes.processes import option, output, readers
from shoal.cli.runtimes.tomltext import Table, at, literal, parsed, with_value
from shoal.toml import KeyPath, dotted

CONFIG = PurePosixPath("/etc/containerd/config.toml")
HOSTS = PurePosixPath("/etc/containerd/certs.d")
CAPABILITIES = ("pull", "resolve")
"""What a `hosts.toml` lets the mirror be asked for: blobs and manifests, and what tags stand for."""
_TRANSFER: KeyPath = ("plugins", "io.containerd.transfer.v1.local", "config_path")
_CRI: dict[int, KeyPath] = {1: ("plugins", "cri"), 2: ("plugins", "io.containerd.grpc.v1.cri")}
_IMAGES: KeyPath = ("plugins", "io.containerd.cri.v1.images")
"""From version 3 on."""
_NEW_VERSION = 2
"""Of a file that there was not: containerd 1 and 2 read it."""
OPTIONS = ("--config", "-c")
"""By which its file is named where it is another one."""
_PROGRAM = "containerd"
_DEFAULT_DOWNLOADS = 3
_MAX_FILES = 64
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """One of its files."""

    path: PurePosixPath
    text: str
    tables: Table

    @property
    def version(self) -> int:
        """1 where a file does not say it."""
        version = self.tables.get("version", 1)
        return version if isinstance(version, int) and self.text.strip() else _NEW_VERSION

    @property
    def cri_path(self) -> KeyPath:
        """The table of the plugin that pulls images for Kubernetes."""
        return _CRI.get(self.version, _IMAGES)

    @property
    def registry_path(self) -> KeyPath:
        return (*self.cri_path, "registry")

    def texts(self, key: str) -> list[str]:
        """A list of the outermost table; empty where there is none."""
        values = self.tables.get(key)
        return [str(each) for each in values] if isinstance(values, list) else []

    def of_cri(self, *keys: str) -> Any:
        """A value of the plugin; None where there is none."""
        return at(self.tables, (*self.cri_path, *keys))


@dataclass(frozen=True, slots=True)
class ContainerdConfig:
    """All files, in the order in which they are read."""

    files: tuple[ConfigFile, ...]
    is_two: bool | None
    """Whether it is containerd 2; None where nothing tells."""

    @property
    def owner(self) -> ConfigFile:
        """The file whose word on registries counts: the last one that has any."""
        keys = ("registry", "config_path") if self.is_two else ()
        return next((each for each in reversed(self.files) if each.of_cri(*keys) is not None), self.files[0])

    @property
    def config_path(self) -> str:
        """As it is written; empty where it is not."""
        return str(self.owner.of_cri("registry", "config_path") or "")

    @property
    def roots(self) -> tuple[PurePosixPath, ...]:
        """The folders in it."""
        return tuple(PurePosixPath(each) for each in self.config_path.split(":") if each)

    @property
    def folder(self) -> PurePosixPath:
        """Where `hosts.toml` files belong."""
        return next(iter(self.roots), HOSTS)

    @property
    def mirrors(self) -> Table:
        """Those of the old layout, by registry."""
        found: Table = {}
        for file in self.files if self.is_two else (self.owner,):
            mirrors = file.of_cri("registry", "mirrors")
            found |= mirrors if isinstance(mirrors, dict) else {}
        return found

    @property
    def is_legacy(self) -> bool:
        """Whether it has what containerd does not take beside `config_path`, so that mirrors belong into the file."""
        return not self.config_path and bool(self.mirrors or (self.has_tls and not self.is_two))

    @property
    def has_tls(self) -> bool:
        """Whether registries have certificates in the old layout, which containerd 1 alone refuses beside
        `config_path`."""
        configs = self.owner.of_cri("registry", "configs")
        tables = configs.values() if isinstance(configs, dict) else ()
        return any(isinstance(each, dict) and each.get("tls") for each in tables)

    @property
    def pulls_locally(self) -> bool:
        """Whether something in it makes containerd 2 pull without its transfer service."""
        says = self.owner.of_cri
        return bool(
            says("use_local_image_pull")
            or self.discards_layers
            or says("registry", "configs")
            or says("registry", "auths")
            or says("image_pull_with_sync_fs")
            or says("disable_snapshot_annotations") is False
            or says("max_concurrent_downloads") not in (None, _DEFAULT_DOWNLOADS)
        )

    @property
    def discards_layers(self) -> bool:
        """Whether layers are dropped from its content store once they are unpacked."""
        says = self.owner.of_cri
        return bool(says("discard_unpacked_layers") or says("containerd", "discard_unpacked_layers"))

    @property
    def has_colon(self) -> bool:
        """Whether `config_path` has several folders where one alone is found."""
        return len(self.roots) > 1 and self.is_two is not False and not self.pulls_locally

    @property
    def transfer_path(self) -> str:
        """What the transfer service reads for clients that say nothing else; empty where it is not written."""
        return next((str(found) for each in reversed(self.files) if (found := at(each.tables, _TRANSFER))), "")

    @property
    def has_other_transfer_path(self) -> bool:
        """Whether that is another folder."""
        return self.transfer_path not in {"", str(self.folder)}

    def with_config_path(self, text: str) -> str:
        """The owner's text, so that containerd reads `folder`; raises `NotEditable`."""
        path = (*self.owner.registry_path, "config_path")
        folder = str(self.folder)
        if not text.strip():
            head = [f"version = {_NEW_VERSION}", "", f"[{dotted(path[:-1])}]"]
            return text + block([*head, f"config_path = {literal(folder)}"])
        needs = not self.config_path or self.has_colon
        if needs:
            text = with_value(text, path, folder)
        if self.has_other_transfer_path or (needs and self.owner.cri_path == _IMAGES):
            text = with_value(text, _TRANSFER, folder)
        return text


def read(host: Host, *, with_own: bool = False) -> ContainerdConfig:
    """The configuration as it is, or as it is without what Shoal wrote; raises `NotEditable` and `FileUnusable`."""
    files = tuple(_files(host, with_own))
    is_two = True if any(each.cri_path == _IMAGES for each in files) else _is_two(host)
    return ContainerdConfig(files, is_two)


def is_own(name: str, mirror: Mirror, registry: str = "") -> bool:
    """Whether a host of a `hosts.toml` is the mirror: containerd adds the path `/v2` where it is not there, and behind
    that the registry may be named."""
    bare = name.rstrip("/")
    return any(mirror.is_at(bare.removesuffix(path)) for path in ("/v2", f"/v2/{registry}"))


def dumped(text: str) -> ContainerdConfig:
    """What `containerd config dump` prints; raises `NotEditable`."""
    file = ConfigFile(CONFIG, text, parsed(text))
    return ContainerdConfig((file,), file.cri_path == _IMAGES)


def _files(host: Host, with_own: bool) -> Iterator[ConfigFile]:
    """In containerd's order: behind a file what it imports, and what that imports behind all of it."""
    pending, seen = deque([CONFIG]), {CONFIG}
    while pending:
        path = pending.popleft()
        file = _file(host, path, with_own)
        yield file
        for pattern in file.texts("imports"):
            found = [each for each in _matching(host, path.parent / pattern) if each not in seen]
            pending += found[: _MAX_FILES - len(seen)]
            seen |= set(pending)


def _file(host: Host, path: PurePosixPath, with_own: bool) -> ConfigFile:
    whole = host.text(path) or ""
    with in_file(path):
        text = whole if with_own else without_blocks(whole)
        file = ConfigFile(path, text, parsed(text))
        folders = file.of_cri("registry", "config_path")
        if folders is not None and not ((isinstance(folders, str) and folders.startswith(("/", ":"))) or folders == ""):
            raise NotEditable("`config_path` is no absolute path")
    return file


def _matching(host: Host, pattern: PurePosixPath) -> list[PurePosixPath]:
    """What is there whose path matches, each of its parts for itself."""
    found = [PurePosixPath("/")]
    for part in PurePosixPath(posixpath.normpath(pattern)).parts[1:]:
        if _WILD.search(part):
            found = [each / name for each in found for name in host.names(each) if fnmatchcase(name, part)]
        else:
            found = [each / part for each in found]
    return [each for each in found if host.exists(each)]


def program(host: Host) -> str:
    """The containerd whose files these are: the one that runs, else the one that is found by its name."""
    own = (each for each in readers(host, _PROGRAM, CONFIG) if option(each.arguments, *OPTIONS) in {None, str(CONFIG)})
    paths = (each.executable for each in own)
    return next((str(path) for path in paths if path is not None and path.name == _PROGRAM), _PROGRAM)


def _is_two(host: Host) -> bool | None:
    words = (output(program(host), "--version") or "").split() if host.is_running else []
    if len(words) < 3:
        return None
    return not words[2].removeprefix("v").startswith(("0.", "1."))
