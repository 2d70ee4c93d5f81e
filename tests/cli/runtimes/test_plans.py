"""Every runtime: what is written, written again, and taken back, whatever stood there before."""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.settings import ProxySettings, UpstreamSettings
from shoal.cli.runtimes.catalog import RUNTIMES
from shoal.cli.runtimes.host import FileUnusable, Host
from shoal.cli.runtimes.mirror import Mirror, mirror_of
from shoal.cli.runtimes.runtime import Runtime
from shoal.cli.runtimes.writing import write

MIRROR = mirror_of(ProxySettings(upstreams={"quay.io": UpstreamSettings()}))

FORMER = {
    "docker": [
        ("/etc/docker/daemon.json", "{}"),
        ("/etc/docker/daemon.json", '{\n\t"log-driver": "journald",\n\t"registry-mirrors": ["https://office/"]\n}'),
        ("/etc/docker/daemon.json", '{"bip": "10.0.0.1/24", "data-root": "/däta"}\n'),
    ],
    "containerd": [
        ("/etc/containerd/config.toml", ""),
        ("/etc/containerd/config.toml", "version = 3\n# mine\n[plugins]\n"),
        (
            "/etc/containerd/config.toml",
            'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = ""',
        ),
        (
            "/etc/containerd/config.toml",
            'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\nendpoint = ["https://office"]\n',
        ),
        ("/etc/containerd/certs.d/docker.io/hosts.toml", 'server = "x"\n# office\n[host."https://office"]\n'),
        ("/etc/containerd/certs.d/docker.io/ca.crt", "a certificate"),
    ],
    "podman": [
        ("/etc/containers/registries.conf", 'unqualified-search-registries = ["docker.io"]\n'),
        (
            "/etc/containers/registries.conf.d/office.conf",
            '[[registry]]\nlocation = "docker.io"\nblocked = true\n[[registry.mirror]]\nlocation = "office"\n',
        ),
    ],
    "crio": [("/etc/containers/registries.conf", "# nothing\n")],
    "k3s": [
        ("/etc/rancher/k3s/registries.yaml", "# nothing yet"),
        ("/etc/rancher/k3s/registries.yaml", "mirrors:\n  docker.io:\n    endpoint:\n      - https://office\n"),
    ],
    "rke2": [("/etc/rancher/rke2/registries.yaml", "configs: {}\n")],
    "buildkit": [
        ("/etc/buildkit/buildkitd.toml", 'debug = true\n[registry."docker.io"]\n  mirrors = ["office"] # ours\n'),
        ("/etc/buildkit/buildkitd.toml", "[worker.oci]\n  enabled = true\n"),
    ],
}
"""Files that somebody wrote before, some of which a host may have together."""

CASES = st.sampled_from(sorted(FORMER)).flatmap(
    lambda name: st.tuples(st.just(name), st.lists(st.sampled_from(FORMER[name]), max_size=3).map(dict))
)


@contextmanager
def root_with(files: dict[str, str]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        for path, text in files.items():
            place = Path(folder + path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, newline="")
        yield Path(folder)


def contents(root: Path) -> dict[str, bytes]:
    """All files but the copies of former ones."""
    paths = (path for path in root.rglob("*") if path.is_file() and ".before-shoal-" not in path.name)
    return {f"/{path.relative_to(root)}": path.read_bytes() for path in paths}


def errors(runtime: Runtime, host: Host, mirror: Mirror = MIRROR) -> list[str]:
    """But for what is the registry's and not the mirror's."""
    found = [each.code for each in runtime.check(host, mirror) if each.level == "error"]
    return [code for code in found if not code.endswith("-blocked")]


def mirrors_named(name: str, root: Path) -> list[str]:
    """What the runtime itself would ask for docker.io, in order, as its own files say it."""

    def read(path: str) -> str:
        return Path(f"{root}{path}").read_text()

    if name == "docker":
        return list(json.loads(read("/etc/docker/daemon.json"))["registry-mirrors"])
    if name == "containerd":
        config = tomllib.loads(read("/etc/containerd/config.toml"))
        plugin = "io.containerd.cri.v1.images" if config["version"] == 3 else "io.containerd.grpc.v1.cri"
        registry = config["plugins"][plugin]["registry"]
        if "mirrors" in registry:
            assert "config_path" not in registry
            return list(registry["mirrors"]["docker.io"]["endpoint"])
        assert registry["config_path"] == "/etc/containerd/certs.d"
        return list(tomllib.loads(read("/etc/containerd/certs.d/docker.io/hosts.toml"))["host"])
    if name in {"podman", "crio"}:
        entries = tomllib.loads(read("/etc/containers/registries.conf.d/zz-shoal.conf"))["registry"]
        (entry,) = [each for each in entries if each["prefix"] == "docker.io"]
        return [("http://" if each.get("insecure") else "https://") + each["location"] for each in entry["mirror"]]
    if name == "buildkit":
        registries = tomllib.loads(read("/etc/buildkit/buildkitd.toml"))["registry"]
        hosts = registries["docker.io"]["mirrors"]
        return [("http://" if registries.get(each, {}).get("http") else "https://") + each for each in hosts]
    return list(yaml.safe_load(read(f"/etc/rancher/{name}/registries.yaml"))["mirrors"]["docker.io"]["endpoint"])


@given(CASES)
@settings(max_examples=30, deadline=None)
def test_what_is_written_counts_comes_twice_to_the_same_and_is_taken_back(case: tuple[str, dict[str, str]]) -> None:
    name, former = case
    runtime = RUNTIMES[name]
    with root_with(former) as root:
        host, before = Host(root), contents(root)
        assert errors(runtime, host)
        assert write(host, runtime.plan(host, MIRROR))
        first, *others = mirrors_named(name, root)
        path = "/docker.io" if name in {"podman", "crio"} else ""
        assert first == f"http://127.0.0.1:5080{path}"
        said_before = any(
            "office" in text
            for path, text in former.items()
            if "mirrors" not in former.get("/etc/containerd/config.toml", "") or path.endswith("config.toml")
        )
        assert ["office" in other for other in others] == [True] * said_before
        assert errors(runtime, host) == []
        assert write(host, runtime.plan(host, MIRROR)) == []
        write(host, runtime.undo(host, MIRROR))
        assert contents(root) == before
        assert not list(root.rglob("*.before-shoal-*"))
        assert errors(runtime, host)


@given(CASES, st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_file_changed_since_loses_what_is_shoals_alone(case: tuple[str, dict[str, str]], by_other_port: bool) -> None:
    name, former = case
    runtime = RUNTIMES[name]
    with root_with(former) as root:
        host = Host(root)
        if by_other_port:
            write(host, runtime.plan(host, mirror_of(ProxySettings(port=7000))))
        write(host, runtime.plan(host, MIRROR))
        for path in contents(root):
            place = Path(f"{root}{path}")
            if path.endswith("daemon.json"):
                place.write_text(json.dumps({**json.loads(place.read_text()), "debug": True}))
            elif not path.endswith(".crt"):
                place.write_text("# since\n" + place.read_text())
        write(host, runtime.undo(host, MIRROR))
        for path, content in contents(root).items():
            text = content.decode()
            assert path.endswith("zz-shoal.conf") or "5080" not in text
            if path.endswith("daemon.json"):
                assert json.loads(text) == {**json.loads(former.get(path, "{}") or "{}"), "debug": True}
            elif path in former and not path.endswith(".crt"):
                assert text.rstrip("\n") == f"# since\n{former[path]}".rstrip("\n")


def test_a_second_write_for_others_is_taken_back_to_the_first_file(tmp_path: Path) -> None:
    file = tmp_path / "etc/docker/daemon.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"debug": true}')
    host, docker = Host(tmp_path), RUNTIMES["docker"]
    for port in (5080, 6000, 5080):
        write(host, docker.plan(host, mirror_of(ProxySettings(port=port))))
        assert json.loads(file.read_text())["registry-mirrors"] == [f"http://127.0.0.1:{port}"]
        assert [each.read_text() for each in file.parent.glob("*.before-shoal-*")] == ['{"debug": true}']
    write(host, docker.undo(host, MIRROR))
    assert file.read_text() == '{"debug": true}'


def test_registries_that_are_named_no_more_are_taken_out(tmp_path: Path) -> None:
    host, containerd = Host(tmp_path), RUNTIMES["containerd"]
    write(host, containerd.plan(host, MIRROR))
    folder = tmp_path / "etc/containerd/certs.d"
    assert {each.name for each in folder.iterdir()} == {"docker.io", "quay.io"}
    only = mirror_of(ProxySettings(), ["docker.io"])
    assert [each.code for each in containerd.check(host, only) if each.level != "ok"] == [
        "containerd-not-found",
        "containerd-outdated",
    ]
    write(host, containerd.plan(host, only))
    assert [each.name for each in folder.iterdir()] == ["docker.io"]


def test_a_file_keeps_its_mode_and_a_link_stays_one(tmp_path: Path) -> None:
    etc = tmp_path / "etc/docker"
    etc.mkdir(parents=True)
    kept = tmp_path / "srv/daemon.json"
    kept.parent.mkdir()
    kept.write_text("{}")
    kept.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(kept, 1234, 1234)
    owner = kept.stat().st_uid
    (etc / "daemon.json").symlink_to("/srv/daemon.json")  # of that machine, not of this one
    host, docker = Host(tmp_path), RUNTIMES["docker"]
    (written,) = write(host, docker.plan(host, MIRROR))
    assert (etc / "daemon.json").is_symlink()
    assert (kept.stat().st_mode & 0o777, kept.stat().st_uid) == (0o600, owner)
    assert "5080" in kept.read_text()
    assert written.backup is not None
    assert host.text(written.backup) == "{}"


def test_links_never_lead_out_of_the_root(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("{}")
    root = tmp_path / "root"
    (root / "etc/docker").mkdir(parents=True)
    (root / "etc/docker/daemon.json").symlink_to("../../../../../outside")
    host = Host(root)
    assert host.place(PurePosixPath("/etc/docker/daemon.json")) == root / "outside"
    write(host, RUNTIMES["docker"].plan(host, MIRROR))
    assert (tmp_path / "outside").read_text() == "{}"


def test_a_circle_of_links_is_told(tmp_path: Path) -> None:
    (tmp_path / "etc/docker").mkdir(parents=True)
    (tmp_path / "etc/docker/daemon.json").symlink_to("daemon.json")
    with pytest.raises(FileUnusable, match="circle"):
        RUNTIMES["docker"].plan(Host(tmp_path), MIRROR)


@pytest.mark.parametrize("content", [b"\xff\xfe", b" " * (5 << 20)])
def test_what_is_no_configuration_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "etc/docker").mkdir(parents=True)
    (tmp_path / "etc/docker/daemon.json").write_bytes(content)
    with pytest.raises(FileUnusable, match=r"daemon\.json"):
        RUNTIMES["docker"].check(Host(tmp_path), MIRROR)


def test_a_file_that_somebody_else_changes_meanwhile_is_left_alone(tmp_path: Path) -> None:
    host = Host(tmp_path)
    plan = RUNTIMES["containerd"].plan(host, MIRROR)
    config = tmp_path / "etc/containerd/certs.d/quay.io/hosts.toml"
    config.parent.mkdir(parents=True)
    config.write_text("# somebody else's\n")
    with pytest.raises(FileUnusable, match="meanwhile"):
        write(host, plan)
    assert contents(tmp_path) == {"/etc/containerd/certs.d/quay.io/hosts.toml": b"# somebody else's\n"}


def test_what_is_made_can_be_read_by_everybody(tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        write(Host(tmp_path), RUNTIMES["podman"].plan(Host(tmp_path), MIRROR))
    finally:
        os.umask(mask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "etc").rglob("*")}
    assert modes == {"containers": 0o755, "registries.conf.d": 0o755, "zz-shoal.conf": 0o644}


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("no folder")
    with pytest.raises(FileUnusable, match="cannot be written"):
        write(Host(tmp_path), RUNTIMES["docker"].plan(Host(tmp_path), MIRROR))


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:5080"), ("::", "http://[::1]:5080"), ("10.0.0.7", "http://10.0.0.7:5080")],
)
def test_the_mirrors_address_is_one_that_clients_can_use(host: str, url: str) -> None:
    assert mirror_of(ProxySettings(host=host)).url == url
