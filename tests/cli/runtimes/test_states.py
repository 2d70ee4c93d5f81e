"""What keeps a runtime from asking the mirror, as each is planted in a host's files, and what is said of it."""

from __future__ import annotations

import json
import tempfile
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.settings import ProxySettings, UpstreamSettings
from shoal.cli.runtimes.catalog import RUNTIMES
from shoal.cli.runtimes.host import FileUnusable, Host
from shoal.cli.runtimes.mirror import Mirror, mirror_of
from shoal.cli.runtimes.writing import write

HUB = mirror_of(ProxySettings())
CONFIG = "/etc/containerd/config.toml"
IMPORT = "/etc/containerd/conf.d/gpu.toml"
CERTS = "/etc/containerd/certs.d"
CRI = '[plugins."io.containerd.grpc.v1.cri".registry]\n'
IMAGES = '[plugins."io.containerd.cri.v1.images"'
BOTH = ":".join((CERTS, "/etc/docker/certs.d"))
HOSTS = '[host."http://127.0.0.1:5080"]\n'
REGISTRY_KEYS = [
    f'plugins."{plugin}".{key}'
    for plugin in ("io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images")
    for key in ("registry", "registry.config_path", "registry.mirrors", "registry.configs", "max_concurrent_downloads")
]
READ = {CONFIG: f'version = 2\n{CRI}config_path = "{CERTS}"\n'}
"""Of a containerd that reads its folder."""
DOCKER = "/etc/docker/daemon.json"
K3S = "/etc/rancher/k3s/registries.yaml"
K3S_HUB = '{endpoint: ["http://127.0.0.1:5080"]}'
BUILDKIT = "/etc/buildkit/buildkitd.toml"
BUILT = '[registry."docker.io"]\nmirrors = '
FLAG = "/etc/systemd/system/docker.service.d/mirror.conf"
PODMAN = "/etc/containers/registries.conf"
MIRRORED_BY = '[[registry.mirror]]\nlocation = "127.0.0.1:5080/docker.io"\ninsecure = true\n'
MIRRORED = f'[[registry]]\nlocation = "docker.io"\n{MIRRORED_BY}'
BLOCKED = '[[registry]]\nlocation = "docker.io"\nblocked = true\n'


def host_with(root: Path, files: dict[str, str]) -> Host:
    for path, text in files.items():
        place = Path(f"{root}{path}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return Host(root)


def found(name: str, host: Host, mirror: Mirror = HUB) -> dict[str, str]:
    """Levels by code, of what is not as it should be, but for runtimes that are not installed in these folders."""
    findings = RUNTIMES[name].check(host, mirror)
    assert all(each.remedy for each in findings if each.level != "ok")
    return {each.code: each.level for each in findings if not each.code.endswith(("-not-found", "-configured"))}


PLANTED: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "nothing is written": (
        "containerd",
        {},
        {"containerd-config-path": "error", "containerd-hosts": "error"},
    ),
    "config_path is empty": (
        "containerd",
        {CONFIG: f'version = 2\n{CRI}config_path = ""\n', f"{CERTS}/docker.io/hosts.toml": HOSTS},
        {"containerd-config-path": "error"},
    ),
    "hosts.toml has the mirror behind another": (
        "containerd",
        {
            CONFIG: f'version = 2\n{CRI}config_path = "{CERTS}"\n',
            f"{CERTS}/docker.io/hosts.toml": f'[host."https://office"]\n{HOSTS}',
        },
        {"containerd-not-editable": "error"},
    ),
    "all is as somebody wrote it by hand": (
        "containerd",
        {CONFIG: f'version = 2\n{CRI}config_path = "{CERTS}"\n', f"{CERTS}/docker.io/hosts.toml": HOSTS},
        {},
    ),
    "the mirror is asked for no tags": (
        "containerd",
        {
            CONFIG: f'version = 2\n{CRI}config_path = "{CERTS}"\n',
            f"{CERTS}/docker.io/hosts.toml": f'{HOSTS}capabilities = ["pull"]\n',
        },
        {"containerd-capabilities": "warning"},
    ),
    "the mirror is asked for tags alone": (
        "containerd",
        {
            CONFIG: f'version = 2\n{CRI}config_path = "{CERTS}"\n',
            f"{CERTS}/docker.io/hosts.toml": f'{HOSTS}capabilities = ["resolve"]\n',
        },
        {"containerd-capabilities": "error"},
    ),
    "config_path has a colon": (
        "containerd",
        {CONFIG: f"version = 3\n{IMAGES}.registry]\nconfig_path = '{BOTH}'\n", f"{CERTS}/docker.io/hosts.toml": HOSTS},
        {"containerd-config-path-colon": "error"},
    ),
    "config_path has a colon, and layers are discarded": (
        "containerd",
        {
            CONFIG: f"version = 3\n{IMAGES}]\ndiscard_unpacked_layers = true\n"
            f"{IMAGES}.registry]\nconfig_path = '{BOTH}'\n",
            f"{CERTS}/docker.io/hosts.toml": HOSTS,
        },
        {"containerd-config-path-list": "warning", "containerd-discards-layers": "ok"},
    ),
    "the transfer service reads another folder": (
        "containerd",
        {
            CONFIG: f"version = 3\n{IMAGES}.registry]\nconfig_path = '{CERTS}'\n"
            '[plugins."io.containerd.transfer.v1.local"]\nconfig_path = "/etc/other"\n',
            f"{CERTS}/docker.io/hosts.toml": HOSTS,
        },
        {"containerd-transfer-path": "error"},
    ),
    "mirrors beside config_path": (
        "containerd",
        {
            CONFIG: f'version = 2\n{CRI}config_path = "{CERTS}"\n'
            '[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\nendpoint = ["https://office"]\n',
            f"{CERTS}/docker.io/hosts.toml": HOSTS,
        },
        {"containerd-mirrors-shadow": "error"},
    ),
    "mirrors of the old layout": (
        "containerd",
        {
            CONFIG: 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\n'
            'endpoint = ["http://127.0.0.1:5080", "https://office"]\n'
        },
        {"containerd-old-layout": "warning"},
    ),
    "an import takes the place of config_path": (
        "containerd",
        {
            CONFIG: f'version = 2\nimports = ["conf.d/*.toml"]\n{CRI}config_path = "{CERTS}"\n',
            IMPORT: 'version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd]\ndefault_runtime_name = "gpu"\n',
            f"{CERTS}/docker.io/hosts.toml": HOSTS,
        },
        {"containerd-config-path": "error"},
    ),
    "an import of containerd 2 adds to config_path": (
        "containerd",
        {
            CONFIG: 'version = 3\nimports = ["/etc/containerd/conf.d/*.toml"]\n'
            f'{IMAGES}.registry]\nconfig_path = "{CERTS}"\n',
            IMPORT: 'version = 3\n[plugins."io.containerd.cri.v1.images"]\nsnapshotter = "gpu"\n',
            f"{CERTS}/docker.io/hosts.toml": HOSTS,
        },
        {},
    ),
    "the CRI plugin is disabled": (
        "containerd",
        {
            CONFIG: f'version = 2\ndisabled_plugins = ["cri"]\n{CRI}config_path = "{CERTS}"\n',
            f"{CERTS}/docker.io/hosts.toml": HOSTS,
        },
        {"containerd-cri-disabled": "warning"},
    ),
    "config.toml is no TOML": ("containerd", {CONFIG: "version = \n"}, {"containerd-not-editable": "error"}),
    "a mirror behind another": (
        "docker",
        {"/etc/docker/daemon.json": '{"registry-mirrors": ["https://office", "http://127.0.0.1:5080"]}'},
        {"docker-mirror": "error"},
    ),
    "mirrors as a flag": (
        "docker",
        {
            "/etc/docker/daemon.json": '{"registry-mirrors": ["http://127.0.0.1:5080/"]}',
            "/etc/systemd/system/docker.service.d/office.conf": "ExecStart=dockerd --registry-mirror=https://office\n",
        },
        {"docker-mirror-flag": "error"},
    ),
    "the mirror as a flag": (
        "docker",
        {DOCKER: "{}", FLAG: "ExecStart=dockerd --registry-mirror http://localhost:5080"},
        {},
    ),
    "the mirror as a flag behind another": (
        "docker",
        {
            DOCKER: "{}",
            FLAG: "ExecStart=dockerd --registry-mirror=https://office --registry-mirror=http://127.0.0.1:5080",
        },
        {"docker-mirror-flag": "error", "docker-mirror": "error"},
    ),
    "daemon.json is no JSON": ("docker", {"/etc/docker/daemon.json": "{,}"}, {"docker-not-editable": "error"}),
    "registries.conf of version 1": (
        "podman",
        {PODMAN: '[registries.search]\nregistries = ["docker.io"]\n'},
        {"podman-old-registries": "error", "podman-mirror": "error"},
    ),
    "a later file takes the place": (
        "podman",
        {"/etc/containers/registries.conf.d/zzz.conf": '[[registry]]\nlocation = "docker.io"\n'},
        {"podman-mirror": "error", "podman-shadowed": "error"},
    ),
    "a longer prefix": (
        "crio",
        {
            PODMAN: '[[registry]]\nprefix = "docker.io/library"\nlocation = "office/library"\n'
            '[[registry]]\nlocation = "docker.io"\n[[registry.mirror]]\nlocation = "127.0.0.1:5080/docker.io"\n'
            "insecure = true\n"
        },
        {"crio-longer-prefix": "warning"},
    ),
    "a mirror for digests alone": (
        "crio",
        {
            PODMAN: '[[registry]]\nlocation = "docker.io"\nmirror-by-digest-only = true\n'
            '[[registry.mirror]]\nlocation = "127.0.0.1:5080/docker.io"\ninsecure = true\n'
        },
        {"crio-digest-only": "warning"},
    ),
    "a user's own file": (
        "podman",
        {"/home/me/.config/containers/registries.conf": "", PODMAN: ""},
        {"podman-mirror": "error", "podman-user-file": "warning"},
    ),
    "registries.conf is no TOML": ("podman", {PODMAN: "registry = ["}, {"podman-not-editable": "error"}),
    "k3s was not restarted": (
        "k3s",
        {
            "/etc/rancher/k3s/registries.yaml": 'mirrors: {docker.io: {endpoint: ["http://127.0.0.1:5080"]}}\n',
            "/var/lib/rancher/k3s/agent/etc/containerd/config.toml": "version = 3\n",
        },
        {"k3s-not-restarted": "error"},
    ),
    "a template of k3s drops the mirrors": (
        "k3s",
        {
            "/etc/rancher/k3s/registries.yaml": 'mirrors: {docker.io: {endpoint: ["http://127.0.0.1:5080"]}}\n',
            "/var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.tmpl": "version = 3\n",
            "/var/lib/rancher/k3s/agent/etc/containerd/certs.d/docker.io/hosts.toml": '[host."http://127.0.0.1:5080/v2"]\n',
        },
        {"k3s-template": "error"},
    ),
    "registries.yaml is no YAML": (
        "rke2",
        {"/etc/rancher/rke2/registries.yaml": "mirrors: ["},
        {"rke2-not-editable": "error"},
    ),
    "buildkitd without a mirror": (
        "buildkit",
        {"/etc/buildkit/buildkitd.toml": '[registry."docker.io"]\nmirrors = ["office"]\n'},
        {"buildkit-mirror": "error"},
    ),
    "the mirror in other words": (
        "containerd",
        {**READ, f"{CERTS}/docker.io/hosts.toml": '[host."http://localhost:5080/v2/"]\n'},
        {},
    ),
    "the path of the mirror is overridden": (
        "containerd",
        {**READ, f"{CERTS}/docker.io/hosts.toml": f"{HOSTS}override_path = true\n"},
        {"containerd-override-path": "error"},
    ),
    "the mirror is the registry too": (
        "containerd",
        {**READ, f"{CERTS}/docker.io/hosts.toml": f'server = "http://127.0.0.1:5080"\n{HOSTS}'},
        {"containerd-no-fallback": "warning"},
    ),
    "the mirror is the registry alone": (
        "containerd",
        {**READ, f"{CERTS}/docker.io/hosts.toml": 'server = "http://127.0.0.1:5080"\n'},
        {"containerd-hosts": "error"},
    ),
    "the mirror is the registry alone to containerd 2": (
        "containerd",
        {
            CONFIG: f'version = 3\n{IMAGES}.registry]\nconfig_path = "{CERTS}"\n',
            f"{CERTS}/docker.io/hosts.toml": 'server = "http://127.0.0.1:5080"\n',
        },
        {"containerd-no-fallback": "warning"},
    ),
    "capabilities are no list": (
        "containerd",
        {**READ, f"{CERTS}/docker.io/hosts.toml": f'{HOSTS}capabilities = "pull"\n'},
        {"containerd-capabilities": "error"},
    ),
    "config_path is a list": (
        "containerd",
        {CONFIG: f'version = 2\n{CRI}config_path = ["{CERTS}"]\n'},
        {"containerd-not-editable": "error"},
    ),
    "the mirror is told for all registries": ("containerd", {**READ, f"{CERTS}/_default/hosts.toml": HOSTS}, {}),
    "a folder without a hosts.toml keeps the mirror for all from counting": (
        "containerd",
        {**READ, f"{CERTS}/_default/hosts.toml": HOSTS, f"{CERTS}/docker.io/ca.crt": ""},
        {"containerd-hosts": "error"},
    ),
    "mirrors of the old layout for all registries": (
        "containerd",
        {
            CONFIG: 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry.mirrors."*"]\n'
            'endpoint = ["http://127.0.0.1:5080"]\n'
        },
        {"containerd-old-layout": "warning"},
    ),
    "the registry in the path of the mirror": (
        "containerd",
        {
            **READ,
            f"{CERTS}/docker.io/hosts.toml": '[host."http://127.0.0.1:5080/v2/docker.io"]\noverride_path = true\n',
        },
        {},
    ),
    "the registry in a path that containerd adds to": (
        "containerd",
        {**READ, f"{CERTS}/docker.io/hosts.toml": '[host."http://127.0.0.1:5080/v2/docker.io"]\n'},
        {"containerd-override-path": "error"},
    ),
    "capabilities in other words": (
        "containerd",
        {**READ, f"{CERTS}/docker.io/hosts.toml": f'{HOSTS}capabilities = ["Pull", "Resolve"]\n'},
        {},
    ),
    "capabilities are empty": (
        "containerd",
        {**READ, f"{CERTS}/docker.io/hosts.toml": f"{HOSTS}capabilities = []\n"},
        {},
    ),
    "capabilities that containerd does not know": (
        "containerd",
        {**READ, f"{CERTS}/docker.io/hosts.toml": f'{HOSTS}capabilities = ["pull", "resolve", "fetch"]\n'},
        {"containerd-capabilities": "error"},
    ),
    "a certificate that is not there": (
        "containerd",
        {**READ, f"{CERTS}/docker.io/hosts.toml": f'client = [["me.crt", "me.key"]]\n{HOSTS}ca = "/etc/ca.crt"\n'},
        {"containerd-certificate": "error"},
    ),
    "certificates that are there": (
        "containerd",
        {
            **READ,
            f"{CERTS}/docker.io/hosts.toml": f'client = [["me.crt", "me.key"]]\n{HOSTS}ca = "/etc/ca.crt"\n',
            f"{CERTS}/docker.io/me.crt": "",
            f"{CERTS}/docker.io/me.key": "",
            "/etc/ca.crt": "",
        },
        {},
    ),
    "imports of a pattern of folders": (
        "containerd",
        {
            CONFIG: 'version = 2\nimports = ["./*/reg?.toml"]\n',
            "/etc/containerd/more/reg1.toml": f'version = 2\n{CRI}config_path = "{CERTS}"\n',
            f"{CERTS}/docker.io/hosts.toml": HOSTS,
        },
        {},
    ),
    "imports of imports come behind all of the first": (
        "containerd",
        {
            CONFIG: 'version = 2\nimports = ["a.toml", "b.toml"]\n',
            "/etc/containerd/a.toml": 'version = 2\nimports = ["../containerd/c.toml"]\n',
            "/etc/containerd/b.toml": f'version = 2\n{CRI}config_path = "/etc/other"\n',
            "/etc/containerd/c.toml": f'version = 2\n{CRI}config_path = "{CERTS}"\n',
            f"{CERTS}/docker.io/hosts.toml": HOSTS,
        },
        {},
    ),
    "a registry lies at the mirror": (
        "podman",
        {PODMAN: '[[registry]]\nprefix = "docker.io"\nlocation = "127.0.0.1:5080/docker.io"\ninsecure = true\n'},
        {"podman-no-fallback": "warning"},
    ),
    "a registry lies at the mirror behind another one": (
        "podman",
        {
            PODMAN: '[[registry]]\nprefix = "docker.io"\nlocation = "127.0.0.1:5080/docker.io"\ninsecure = true\n'
            '[[registry.mirror]]\nlocation = "office"\n'
        },
        {"podman-mirror": "error", "podman-no-fallback": "warning"},
    ),
    "k3s names the mirror for all registries": (
        "k3s",
        {
            K3S: 'mirrors: {"*": {endpoint: ["http://127.0.0.1:5080/v2"]}}\n',
            "/var/lib/rancher/k3s/agent/etc/containerd/certs.d/_default/hosts.toml": HOSTS,
        },
        {},
    ),
    "a registry of k3s' own goes before all": (
        "k3s",
        {K3S: 'mirrors: {"*": {endpoint: ["http://127.0.0.1:5080"]}, docker.io: {endpoint: [https://office]}}\n'},
        {"k3s-mirror": "error"},
    ),
    "k3s has the mirror asked for other names": (
        "k3s",
        {K3S: 'mirrors: {docker.io: {endpoint: ["http://127.0.0.1:5080"], rewrite: {"^library/(.*)": "office/$1"}}}\n'},
        {"k3s-rewrite": "warning"},
    ),
    "k3s rewrites the names of another mirror": (
        "k3s",
        {K3S: f"mirrors:\n  docker.io: {K3S_HUB}\n  quay.io: {{endpoint: [https://office], rewrite: {{a: b}}}}\n"},
        {},
    ),
    "buildkitd has the mirror on loopback": ("buildkit", {BUILDKIT: f'{BUILT}["127.0.0.1:5080"]\n'}, {}),
    "buildkitd has the registry in the mirror's path": (
        "buildkit",
        {BUILDKIT: f'{BUILT}["localhost:5080/docker.io"]\n[registry."localhost:5080"]\nhttp = true\n'},
        {},
    ),
    "buildkitd asks the mirror by TLS": (
        "buildkit",
        {BUILDKIT: f'{BUILT}["127.0.0.1:5080"]\n[registry."127.0.0.1:5080"]\ninsecure = true\n'},
        {"buildkit-mirror": "error"},
    ),
    "daemon.json names localhost": ("docker", {DOCKER: '{"registry-mirrors": ["http://localhost:5080"]}'}, {}),
    "a mirror that dockerd does not take": (
        "docker",
        {DOCKER: '{"registry-mirrors": ["http://127.0.0.1:5080", "http://127.0.0.1:5080/v2/", "office:5000"]}'},
        {"docker-mirror-invalid": "error"},
    ),
    "mirrors as a flag in a file of variables": (
        "docker",
        {
            DOCKER: '{"registry-mirrors": ["http://127.0.0.1:5080"]}',
            "/usr/lib/systemd/system/docker.service": "EnvironmentFile=-/etc/default/docker\nExecStart=dockerd $OPTS\n",
            "/etc/default/docker": "OPTS=--registry-mirror=https://office\n",
        },
        {"docker-mirror-flag": "error"},
    ),
    "mirrors as a flag that does not count": (
        "docker",
        {
            DOCKER: '{"registry-mirrors": ["http://127.0.0.1:5080"]}',
            "/usr/lib/systemd/system/docker.service": "ExecStart=dockerd --registry-mirror=https://office\n",
            "/etc/systemd/system/docker.service.d/a.conf": "ExecStart=\nExecStart=dockerd\n# --registry-mirror\n",
            "/etc/systemd/system/docker.service.d/b.conf.old": "ExecStart=dockerd --registry-mirror=https://office\n",
            "/etc/default/docker": "OPTS=--registry-mirror=https://office\n",
        },
        {},
    ),
    "a later file of version 1": (
        "podman",
        {PODMAN: MIRRORED, f"{PODMAN}.d/99-old.conf": '[registries.search]\nregistries = ["docker.io"]\n'},
        {"podman-old-registries": "error"},
    ),
    "a registry is blocked": ("crio", {PODMAN: f"{BLOCKED}{MIRRORED_BY}"}, {"crio-blocked": "error"}),
    "the mirror for digests alone": (
        "crio",
        {PODMAN: f'{MIRRORED}pull-from-mirror = "digest-only"\n'},
        {"crio-pull-from-mirror": "warning"},
    ),
    "a longer prefix in a later file": (
        "crio",
        {PODMAN: MIRRORED, f"{PODMAN}.d/zzz.conf": '[[registry]]\nlocation = "docker.io/library"\n'},
        {"crio-longer-prefix": "warning"},
    ),
    "a longer prefix with the mirror": (
        "crio",
        {PODMAN: f'{MIRRORED}[[registry]]\nlocation = "docker.io/library"\n{MIRRORED_BY}'},
        {},
    ),
    "a user's own entry": (
        "podman",
        {PODMAN: MIRRORED, "/root/.config/containers/registries.conf.d/a.conf": '[[registry]]\nlocation="docker.io"\n'},
        {"podman-user-file": "warning"},
    ),
    "registries.yaml names mirrors twice": (
        "k3s",
        {"/etc/rancher/k3s/registries.yaml": "mirrors: {}\nmirrors: {}\n".replace("{}", "\n  docker.io: {}")},
        {"k3s-not-editable": "error"},
    ),
}


@pytest.mark.parametrize("case", PLANTED)
def test_what_keeps_a_runtime_from_the_mirror_is_found(tmp_path: Path, case: str) -> None:
    name, files, wanted = PLANTED[case]
    assert found(name, host_with(tmp_path, files)) == wanted


REPAIRED = [
    "config_path is empty",
    "config_path has a colon",
    "the transfer service reads another folder",
    "an import takes the place of config_path",
    "a mirror behind another",
    "buildkitd without a mirror",
]


@pytest.mark.parametrize("case", REPAIRED)
def test_what_write_can_repair_it_repairs(tmp_path: Path, case: str) -> None:
    name, files, _ = PLANTED[case]
    host = host_with(tmp_path, files)
    write(host, RUNTIMES[name].plan(host, HUB))
    assert found(name, host) == {}
    write(host, RUNTIMES[name].undo(host, HUB))
    assert {path: Path(f"{tmp_path}{path}").read_text() for path in files} == files


def test_a_mirror_for_all_that_is_to_go_is_none_to_count_on(tmp_path: Path) -> None:
    containerd, host = RUNTIMES["containerd"], host_with(tmp_path, READ)
    write(host, containerd.plan(host, mirror_of(ProxySettings(any_upstream=True))))
    mirror = mirror_of(ProxySettings(upstreams={"quay.io": UpstreamSettings()}))
    write(host, containerd.plan(host, mirror))
    assert not (tmp_path / CERTS[1:] / "_default").exists()
    assert found("containerd", host, mirror) == {}


REFUSED = [
    "mirrors as a flag",
    "the mirror as a flag behind another",
    "hosts.toml has the mirror behind another",
    "mirrors beside config_path",
    "daemon.json is no JSON",
]


@pytest.mark.parametrize("case", REFUSED)
def test_what_write_cannot_repair_is_refused(tmp_path: Path, case: str) -> None:
    name, files, _ = PLANTED[case]
    plan = RUNTIMES[name].plan(host_with(tmp_path, files), HUB)
    assert plan.is_refused
    assert all(each.remedy for each in plan.findings)


def test_folders_that_a_colon_hid_are_told_when_they_are_read_no_more(tmp_path: Path) -> None:
    _, files, _ = PLANTED["config_path has a colon"]
    host = host_with(tmp_path, {**files, "/etc/docker/certs.d/office/ca.crt": "a certificate"})
    write(host, RUNTIMES["containerd"].plan(host, HUB))
    assert found("containerd", host) == {"containerd-other-folder": "warning"}


def test_mirrors_that_came_after_config_path_are_told_and_repaired(tmp_path: Path) -> None:
    host = host_with(tmp_path, {CONFIG: "version = 2\n"})
    write(host, RUNTIMES["containerd"].plan(host, HUB))
    mirrors = '\n[plugins."io.containerd.grpc.v1.cri".registry.mirrors."quay.io"]\nendpoint = ["https://office"]\n'
    with (tmp_path / CONFIG[1:]).open("a") as file:
        file.write(mirrors)
    assert found("containerd", host)["containerd-mirrors-shadow"] == "error"
    write(host, RUNTIMES["containerd"].plan(host, HUB))
    assert found("containerd", host) == {"containerd-old-layout": "warning"}
    assert not (tmp_path / CERTS[1:] / "docker.io").exists()


def test_any_registry_is_mirrored_but_for_those_with_folders_of_their_own(tmp_path: Path) -> None:
    mirror = mirror_of(ProxySettings(any_upstream=True))
    host = host_with(tmp_path, {f"{CERTS}/ghcr.io/hosts.toml": 'server = "https://ghcr.io"\n'})
    write(host, RUNTIMES["containerd"].plan(host, mirror))
    hosts = (tmp_path / CERTS[1:] / "_default/hosts.toml").read_text()
    assert "5080" in hosts
    assert "server" not in hosts
    assert found("containerd", host, mirror) == {"containerd-own-folders": "warning"}


@pytest.mark.parametrize(
    ("there", "folder"),
    [([], "office_5000_"), (["office:5000"], "office:5000"), (["office:5000", "office_5000_"], "office_5000_")],
)
def test_a_registry_with_a_port_has_the_folder_that_containerd_looks_for(
    tmp_path: Path, there: list[str], folder: str
) -> None:
    mirror = mirror_of(
        ProxySettings(upstreams={"office:5000": UpstreamSettings(url="http://office:5000")}), ["office:5000"]
    )
    host = host_with(tmp_path, {f"{CERTS}/{name}/ca.crt": "" for name in there})
    (_, change) = RUNTIMES["containerd"].plan(host, mirror).changes
    assert str(change.path) == f"{CERTS}/{folder}/hosts.toml"
    assert 'server = "http://office:5000"' in str(change.new)


def test_what_somebody_changed_in_shoals_own_lines_is_told_and_no_fault(tmp_path: Path) -> None:
    host = host_with(tmp_path, {})
    write(host, RUNTIMES["containerd"].plan(host, HUB))
    hosts = tmp_path / CERTS[1:] / "docker.io/hosts.toml"
    hosts.write_text(hosts.read_text().replace('"resolve"]', '"resolve"]  # both'))
    assert found("containerd", host) == {"containerd-outdated": "warning"}


def test_certificates_of_a_registry_are_named_where_containerd_looks_at_them_no_more(tmp_path: Path) -> None:
    names = ("office.crt", "me.cert", "me.key", "other.cert")
    host = host_with(tmp_path, {f"{CERTS}/docker.io/{name}": "" for name in names})
    write(host, RUNTIMES["containerd"].plan(host, HUB))
    hosts = tomllib.loads((tmp_path / CERTS[1:] / "docker.io/hosts.toml").read_text())
    assert hosts["ca"] == [f"{CERTS}/docker.io/office.crt"]
    assert hosts["client"] == [[f"{CERTS}/docker.io/me.cert", f"{CERTS}/docker.io/me.key"]]


def test_what_an_import_made_needless_is_taken_out_too(tmp_path: Path) -> None:
    containerd = RUNTIMES["containerd"]
    former = {CONFIG: 'version = 2\nimports = ["conf.d/*.toml"]\n'}
    host = host_with(tmp_path, former)
    write(host, containerd.plan(host, HUB))
    host_with(tmp_path, {IMPORT: f"version = 2\n{CRI}config_path = '/etc/certs'\n"})
    assert found("containerd", host)["containerd-hosts"] == "error"
    write(host, containerd.plan(host, HUB))
    assert found("containerd", host) == {}
    assert (tmp_path / CONFIG[1:]).read_text() == former[CONFIG]
    assert not (tmp_path / CERTS[1:] / "docker.io").exists()


SHAPES = st.recursive(
    st.one_of(st.booleans(), st.integers(0, 5), st.sampled_from(["", "a:b", "docker.io", "http://127.0.0.1:5080"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(st.sampled_from(["registry", "config_path", "mirrors", "docker.io", "tls", "mirror"]), inner),
    ),
    max_leaves=6,
)
KEYS = {
    "containerd": (CONFIG, ["version", "imports", "disabled_plugins", *REGISTRY_KEYS]),
    "podman": (PODMAN, ["registry", "registries", "unqualified-search-registries"]),
    "docker": ("/etc/docker/daemon.json", ["registry-mirrors", "insecure-registries"]),
    "k3s": ("/etc/rancher/k3s/registries.yaml", ["mirrors", "configs"]),
    "buildkit": ("/etc/buildkit/buildkitd.toml", ["registry", 'registry."docker.io".mirrors']),
}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_file_of_any_shape_is_answered_by_findings(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(KEYS)))
    path, keys = KEYS[name]
    values = data.draw(st.dictionaries(st.sampled_from(keys), SHAPES, min_size=1, max_size=3))
    if path.endswith((".toml", ".conf")):
        text = "".join(f"{key} = {literal(value)}\n" for key, value in values.items())
    else:
        text = json.dumps(values)
    with tempfile.TemporaryDirectory() as root:
        host = host_with(Path(root), {path: text})
        try:
            assert RUNTIMES[name].check(host, HUB)
            plan = RUNTIMES[name].plan(host, HUB)
            RUNTIMES[name].undo(host, HUB)
        except FileUnusable as error:
            assert "imports" in values
            assert "no regular file" in str(error)
        else:
            assert plan.is_refused or plan.files


def literal(value: object) -> str:
    """As TOML has it, with tables in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(literal(inner) for inner in value) + "]"
    return json.dumps(value)


def test_docker_is_told_of_docker_hub_alone(tmp_path: Path) -> None:
    docker, host = RUNTIMES["docker"], host_with(tmp_path, {"/etc/docker/daemon.json": "{}"})
    quay = ProxySettings(upstreams={"quay.io": UpstreamSettings()})
    assert found("docker", host, mirror_of(quay))["docker-other-registry"] == "warning"
    plan = docker.plan(host, mirror_of(quay, ["quay.io"]))
    assert plan.is_refused
    assert "proxy.tunnel" in plan.findings[0].remedy
    both = {"quay.io": UpstreamSettings(), "docker.io": UpstreamSettings()}
    other = ProxySettings(upstreams=both, default_upstream="quay.io")
    assert found("docker", host, mirror_of(other, ["docker.io"]))["docker-default-upstream"] == "error"


def test_docker_drops_its_last_mirror_by_a_restart_alone(tmp_path: Path) -> None:
    docker, host = RUNTIMES["docker"], host_with(tmp_path, {"/etc/docker/daemon.json": "{}"})
    assert [then for then in docker.plan(host, HUB).then if "reload" in then]
    write(host, docker.plan(host, HUB))
    assert [then for then in docker.undo(host, HUB).then if "restart docker" in then]
    file = tmp_path / "etc/docker/daemon.json"
    file.write_text('{"registry-mirrors": ["http://127.0.0.1:5080", "https://office"]}')
    assert docker.undo(host, HUB).then == docker.plan(host, HUB).then


def test_what_somebody_told_docker_by_hand_is_not_taken_back(tmp_path: Path) -> None:
    docker, host = RUNTIMES["docker"], host_with(tmp_path, {DOCKER: '{"registry-mirrors": ["http://127.0.0.1:5080"]}'})
    assert not write(host, docker.plan(host, HUB))
    assert not write(host, docker.undo(host, HUB))


def test_a_mirror_beyond_loopback_is_one_that_docker_takes_plain_http_from(tmp_path: Path) -> None:
    host = host_with(tmp_path, {})
    (change,) = RUNTIMES["docker"].plan(host, mirror_of(ProxySettings(host="10.0.0.7"))).files
    assert '"insecure-registries": [\n    "10.0.0.7:5080"' in str(change.new)


@pytest.mark.parametrize(
    ("place", "entry", "is_enough"),
    [
        ("10.0.0.7", "10.0.0.7:5080", True),
        ("10.0.0.7", "10.0.0.0/8", True),
        ("10.0.0.7", "10.0.0.7/8", True),
        ("10.0.0.7", "10.0.0.7/32", True),
        ("10.0.0.7", "192.168.0.0/16", False),
        ("10.0.0.7", "10.0.0.7:5000", False),
        ("10.0.0.7", "fd00::/8", False),
        ("10.0.0.7", "office", False),
        ("fd00::7", "fd00::/8", True),
        ("fd00::7", "10.0.0.0/8", False),
    ],
)
def test_a_subnet_that_docker_takes_plain_http_from_is_enough(
    place: str, entry: str, *, is_enough: bool, tmp_path: Path
) -> None:
    mirror = mirror_of(ProxySettings(host=place))
    former = {"registry-mirrors": [mirror.url], "insecure-registries": [entry]}
    host = host_with(tmp_path, {"/etc/docker/daemon.json": json.dumps(former)})
    assert (found("docker", host, mirror) == {}) is is_enough
    assert bool(RUNTIMES["docker"].plan(host, mirror).changes) is not is_enough


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("docker", {DOCKER: '{"registry-mirrors": ["http://127.0.0.2:5080"]}'}),
        ("containerd", {**READ, f"{CERTS}/docker.io/hosts.toml": '[host."http://127.0.0.2:5080"]\n'}),
        ("podman", {PODMAN: MIRRORED.replace("127.0.0.1", "127.0.0.2")}),
        ("buildkit", {BUILDKIT: f'{BUILT}["127.0.0.2:5080"]\n'}),
        ("k3s", {K3S: 'mirrors: {docker.io: {endpoint: ["http://127.0.0.2:5080"]}}\n'}),
    ],
)
def test_each_of_the_machines_addresses_is_a_mirrors_that_listens_at_all(
    tmp_path: Path, name: str, files: dict[str, str]
) -> None:
    host = host_with(tmp_path, files)
    assert found(name, host, mirror_of(ProxySettings(host="0.0.0.0"))) == {}
    assert found(name, host) == {f"{name}-{'hosts' if name == 'containerd' else 'mirror'}": "error"}
    other_port = mirror_of(ProxySettings(host="0.0.0.0", port=5000))
    assert f"{name}-{'hosts' if name == 'containerd' else 'mirror'}" in found(name, host, other_port)


def test_podman_names_a_registry_with_a_port_by_its_alias(tmp_path: Path) -> None:
    host = host_with(tmp_path, {})
    unnamed = ProxySettings(upstreams={"office:5000": UpstreamSettings()})
    assert RUNTIMES["podman"].plan(host, mirror_of(unnamed)).is_refused
    named = ProxySettings(upstreams={"office:5000": UpstreamSettings(aliases=["office"])})
    (change,) = RUNTIMES["podman"].plan(host, mirror_of(named)).files
    assert 'prefix = "office:5000"\n[[registry.mirror]]\nlocation = "127.0.0.1:5080/office"' in str(change.new)


def test_a_containerd_that_dockerd_has_for_itself_is_none_that_pulls(tmp_path: Path) -> None:
    host = host_with(tmp_path, {"/usr/bin/containerd": "", "/usr/bin/dockerd": ""})
    assert not RUNTIMES["containerd"].is_present(host)
    assert RUNTIMES["docker"].is_present(host)
    assert RUNTIMES["containerd"].is_present(host_with(tmp_path, {"/usr/bin/kubelet": ""}))
