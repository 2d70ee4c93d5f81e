"""`shoal config RUNTIME` as people meet it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from proxy.settings import ProxySettings
from shoal.cli.runtimes.actions import run
from shoal.cli.runtimes.catalog import RUNTIMES
from shoal.cli.runtimes.host import Host
from shoal.cli.runtimes.mirror import mirror_of

MIRROR = mirror_of(ProxySettings())


def shoal(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shoal.cli", "config", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=dict(os.environ))


def test_a_file_is_written_checked_and_taken_back(tmp_path: Path) -> None:
    file = tmp_path / "etc/docker/daemon.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"debug": true}\n')
    docker = ("docker", "--root", tmp_path, "--listen", "127.0.0.1:6000")

    written = shoal(*docker, "--write")
    assert written.returncode == 0
    assert (
        "/etc/docker/daemon.json is changed. What it was is kept in /etc/docker/daemon.json.before-" in written.stdout
    )
    assert '+    "http://127.0.0.1:6000"\n' in written.stdout
    assert "systemctl reload docker" in written.stdout
    assert json.loads(file.read_text()) == {"debug": True, "registry-mirrors": ["http://127.0.0.1:6000"]}

    checked = shoal("docker", "--root", tmp_path, "--check", "--json")
    assert checked.returncode == 1
    assert [each["code"] for each in json.loads(checked.stdout)["findings"]] == ["docker-mirror"]

    undone = shoal(*docker, "--undo")
    assert undone.returncode == 0
    assert "is changed to what it was before Shoal." in undone.stdout
    assert file.read_text() == '{"debug": true}\n'


def test_what_cannot_be_done_is_said_and_not_done(tmp_path: Path) -> None:
    refused = shoal("docker", "--root", tmp_path, "--write", "--upstream", "quay.io=https://quay.io")
    assert refused.returncode == 1
    assert "error: Docker cannot be told to ask a mirror for quay.io." in refused.stderr
    assert "proxy.tunnel" in refused.stderr
    assert not list(tmp_path.iterdir())


def test_one_thing_is_done_at_a_time(tmp_path: Path) -> None:
    refused = shoal("docker", "--root", tmp_path, "--write", "--check")
    assert (refused.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "--write, --check and --undo exclude each other" in refused.stderr


def test_files_are_printed_and_nothing_is_written(tmp_path: Path) -> None:
    outcome = run(RUNTIMES["containerd"], "print", Host(tmp_path), MIRROR)
    first, second = (
        f"# {path}\n" for path in ("/etc/containerd/config.toml", "/etc/containerd/certs.d/docker.io/hosts.toml")
    )
    assert outcome.as_text().startswith(first)
    assert second in outcome.as_text()
    assert [each["path"] for each in json.loads(outcome.as_json())["files"]] == [first[2:-1], second[2:-1]]
    assert not list(tmp_path.iterdir())


def test_nothing_to_do_is_said(tmp_path: Path) -> None:
    outcome = run(RUNTIMES["k3s"], "undo", Host(tmp_path), MIRROR)
    assert outcome.is_good
    assert outcome.as_text() == "Nothing has to be changed.\n"


def test_what_is_wrong_comes_before_the_rest_with_its_remedy(tmp_path: Path) -> None:
    outcome = run(RUNTIMES["containerd"], "check", Host(tmp_path), MIRROR)
    lines = outcome.remarks().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "error", "warning"]
    assert lines[0].endswith("Run `shoal config containerd --write`. [containerd-config-path]")
    assert not outcome.is_good
