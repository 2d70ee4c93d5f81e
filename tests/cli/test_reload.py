"""A daemon that reads its configuration again, and limits that change while it runs."""

from __future__ import annotations

import json
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.daemons import Daemon, free_ports, metrics
from tests.cli.tree import Ended, run
from tests.world.images import random_bytes
from tests.world.nodes import wait_until
from tests.world.origin import REPOSITORY, ScriptedOrigin


@dataclass
class World:
    """A supernode and a node in one process, and the file that they were started with."""

    folder: Path
    ports: list[int]
    daemon: Daemon
    capsys: pytest.CaptureFixture[str]

    @property
    def file(self) -> Path:
        return self.folder / "shoal.toml"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def write(self, more: str = "", peer_port: int = 0) -> None:
        """Write the file; `more` stands behind what it always holds."""
        supernode, leading, peer, operations, proxy = self.ports
        lines = [
            f"supernode.port = {supernode}",
            f"supernode.operations.port = {leading}",
            f'supernode.state = "{self.folder}/state"',
            f"peer.port = {peer_port or peer}",
            f"peer.operations.port = {operations}",
            f'peer.store = "{self.folder}/store"',
            f"proxy.port = {proxy}",
            more,
        ]
        self.file.write_text("\n".join(lines))

    def hang_up(self, event: str) -> str:
        """SIGHUP; the line of the log that tells what came of it."""
        before = self.log.count(event)
        self.daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.log.count(event) > before, "it has read its configuration")
        return next(line for line in reversed(self.log.splitlines()) if event in line)

    def shoal(self, *words: str) -> Ended:
        """A command with the daemon's file."""
        return run(self.capsys, [*words, "--config", str(self.file)])

    def limits(self, *words: str) -> dict[str, tuple[float, str]]:
        told = self.shoal("limit", "--json", *words).told["limits"]
        return {kind: (found["bytes_per_second"], found["set_by"]) for kind, found in told.items()}


@pytest.fixture
def world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[World]:
    command = [sys.executable, "-m", "shoal.cli", "up", "--config", str(tmp_path / "shoal.toml")]
    found = World(tmp_path, free_ports(5), Daemon(command, tmp_path / "log"), capsys)
    found.write('peer.limits.upload = "10MB/s"')
    with found.daemon as daemon:
        daemon.wait_until(lambda: "supernode.joined" in found.log)
        yield found


def test_sighup_takes_over_what_is_live_and_names_what_is_not(world: World) -> None:
    origin = ScriptedOrigin()
    origin.push(random_bytes(1000, "a"))
    with ExitStack() as stack:
        url = origin.start(stack)
        image = f"http://127.0.0.1:{world.ports[-1]}/v2/{REPOSITORY}/manifests/latest?ns=quay.io"
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(image)
        more = [
            'peer.limits.upload = "20MB/s"',
            'supernode.limits.origin = "5MB/s"',
            f'proxy.upstreams."quay.io".url = "{url}"',
            'log.level = "debug"',
        ]
        world.write("\n".join(more), peer_port=1)
        line = world.hang_up("configuration.reloaded")
        for key in ("peer.limits.upload", "supernode.limits.origin", "quay.io", "log.level"):
            assert key in line.partition("needs_restart=")[0]
        assert line.endswith("needs_restart=peer.port")
        with urllib.request.urlopen(image) as answer:
            assert answer.status == 200
    wait_until(lambda: world.limits()["origin"] == (5e6, "cluster"), "the node hears of the cluster's limit")
    assert world.limits()["upload"] == (20e6, "configuration")
    assert " debug " in world.log


def test_a_file_with_a_mistake_changes_nothing_and_the_key_is_named(world: World) -> None:
    before = world.file.read_text()
    world.file.write_text(before.replace("10MB/s", "fast") + '\nlog.level = "debug"')
    assert "peer.limits.upload" in world.hang_up("configuration.not_reloaded")
    world.file.write_text(before.replace("10MB/s", "20MB/s") + '\nproxy.admission.file = "/nowhere"')
    assert "/nowhere" in world.hang_up("configuration.not_reloaded")
    assert " debug " not in world.log
    world.file.write_text(before)
    assert world.limits()["upload"] == (10e6, "configuration")


def test_what_sighup_does_a_command_does_and_prints(world: World) -> None:
    assert "Nothing" in world.shoal("reload").out
    world.write('peer.limits.download = "10MB/s"', peer_port=1)
    lines = world.shoal("reload").out.splitlines()
    assert lines == [
        "peer.limits.upload: holds now",
        "peer.limits.download: holds now",
        "peer.port: holds when the daemon has been started again",
    ]
    assert world.shoal("reload", "--cluster", "--json").told == {"applied": [], "needs_restart": ["peer.port"]}
    running = world.file.read_text()
    world.file.write_text('peer.limits.download = "slow"')
    refused = run(
        world.capsys,
        ["reload", "--operations", f"127.0.0.1:{world.ports[3]}", "--store", f"{world.folder}/store", "--json"],
    )
    assert refused.code == 1
    assert "peer.limits.download" in json.loads(refused.out)["error"]
    world.file.write_text(running)


def test_limits_are_changed_live_until_the_configuration_is_read_again(world: World) -> None:
    assert world.limits("upload", "1MB/s") == {"upload": (1e6, "order")}
    assert world.limits("upload", "default") == {"upload": (10e6, "configuration")}
    assert world.limits("--cluster", "download", "2MB/s") == {"download": (2e6, "order")}
    wait_until(lambda: world.limits()["download"] == (2e6, "cluster"), "the node hears of the cluster's limit")
    assert metrics(world.ports[3])['shoal_limit_bytes_per_second{traffic="download"}'] == 2e6
    assert world.limits("download", "none") == {"download": (0.0, "order")}
    world.hang_up("configuration.reloaded")
    wait_until(lambda: world.limits()["download"] == (0.0, "nobody"), "orders are over, the cluster's too")
    assert world.shoal("limit", "upload", "2").code == 2
