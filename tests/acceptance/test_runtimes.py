"""Real runtimes are set up by `shoal config`, as their own files and nothing else, and pull through a node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.images import write_image
from tests.acceptance.configured import IMAGE, RUNTIMES, Configured, ConfiguredContainerd, ConfiguredContainerd2
from tests.world.nodes import Node
from tests.world.programs import ProgramFailed
from tests.world.registries import Registry


@pytest.fixture
def root(stack: ExitStack) -> Path:
    # the path of a Unix socket is at most 107 bytes long
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runtime-", ignore_cleanup_errors=True)))


@pytest.fixture
def origin(tmp_path: Path, stack: ExitStack) -> Registry:
    return Registry(tmp_path / "origin").start(stack)


@pytest.fixture
def size(origin: Registry) -> int:
    """Bytes of the image's layers and configuration."""
    image = write_image(origin.root, IMAGE.removeprefix("docker.io/").partition(":")[0], [1_500_000, 300_000])
    return sum(size for _, size in image.blobs)


@pytest.fixture
def node(origin: Registry, tmp_path: Path, stack: ExitStack) -> Node:
    node = Node(tmp_path / "node", {"docker.io": origin.url})
    node.start(stack)
    return node


def shoal_config(runtime: Configured, node: Node, *words: str, within: bool = False) -> tuple[int, list[str]]:
    """Exit code and the codes of findings at level `error`, for the files below the root or `within` a machine that has
    them as its own."""
    program = [sys.executable, "-m", "shoal.cli", "config", runtime.name, *words, "--json"]
    where = ["--listen", f"127.0.0.1:{node.proxy_port}", "--upstream", "docker.io=https://registry-1.docker.io"]
    command = runtime.inside(*program, *where) if within else [*program, *where, "--root", str(runtime.root)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=dict(os.environ))
    assert done.stdout, done.stderr
    outcome = json.loads(done.stdout)
    return done.returncode, [each["code"] for each in outcome["findings"] if each["level"] == "error"]


def files(runtime: Configured) -> dict[str, bytes]:
    etc = runtime.root / "etc"
    return {str(path.relative_to(etc)): path.read_bytes() for path in etc.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", RUNTIMES, ids=lambda kind: kind.__name__)
def test_a_runtime_pulls_through_the_node_for_as_long_as_its_files_say_so(
    kind: type[Configured], root: Path, node: Node, size: int, stack: ExitStack
) -> None:
    runtime = kind(root, stack)
    before = files(runtime)
    with pytest.raises(ProgramFailed):
        runtime.pull()
    code, errors = shoal_config(runtime, node, "--check")
    assert code == 1
    assert errors
    assert node.received("origin") == 0

    assert shoal_config(runtime, node, "--write") == (0, [])
    runtime.reload()
    assert shoal_config(runtime, node, "--check") == (0, [])
    runtime.pull()
    assert node.received("origin") >= size
    written = files(runtime)
    assert shoal_config(runtime, node, "--write") == (0, [])
    assert files(runtime) == written

    assert shoal_config(runtime, node, "--undo") == (0, [])
    changed = {path for path, content in files(runtime).items() if before.get(path) != content}
    assert changed <= {"docker/key.json"}  # dockerd's own
    assert before.keys() <= files(runtime).keys()
    runtime.reload()
    assert shoal_config(runtime, node, "--check")[0] == 1
    with pytest.raises(ProgramFailed):
        runtime.pull()


def test_a_containerd_that_has_not_read_its_configuration_again_is_told(
    root: Path, node: Node, stack: ExitStack
) -> None:
    runtime = ConfiguredContainerd(root, stack)
    assert shoal_config(runtime, node, "--write", within=True) == (0, [])
    config = root / "etc/containerd/config.toml"
    started = config.stat().st_mtime
    os.utime(config, (started + 5, started + 5))  # as if it had run for some seconds before
    assert shoal_config(runtime, node, "--check", within=True) == (1, ["containerd-not-restarted"])
    os.utime(config, (started - 60, started - 60))
    assert shoal_config(runtime, node, "--check", within=True) == (0, [])
    with config.open("a") as file:
        file.write('imports = "no list"\n')
    assert shoal_config(runtime, node, "--check", within=True)[0] == 1


def test_certificates_beside_config_path_that_keep_containerd_from_pulling(
    root: Path, node: Node, stack: ExitStack
) -> None:
    runtime = ConfiguredContainerd(root, stack)
    registry = 'plugins."io.containerd.grpc.v1.cri".registry'
    with (root / "etc/containerd/config.toml").open("a") as file:
        file.write(f'[{registry}]\nconfig_path = "/etc/containerd/certs.d"\n')
        file.write(f'[{registry}.configs."office".tls]\ninsecure_skip_verify = true\n')
    runtime.reload()
    with pytest.raises(ProgramFailed):
        runtime.pull()
    assert "containerd-mirrors-shadow" in shoal_config(runtime, node, "--check", within=True)[1]


def test_the_containerd_that_runs_is_the_one_whose_reading_counts(root: Path, node: Node, stack: ExitStack) -> None:
    runtime = ConfiguredContainerd2(root, stack)  # beside another one of that name, which knows no version 3
    assert shoal_config(runtime, node, "--write", within=True) == (0, [])
    runtime.reload()
    assert shoal_config(runtime, node, "--check", within=True) == (0, [])
