"""`shoal doctor` itself, with and without a daemon."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from shoal.cli.doctor import examination
from shoal.cli.doctor.subject import Subject
from shoal.cli.finding import Finding
from tests.cli.conftest import Shoal
from tests.world.examined import Examiner
from tests.world.nodes import Node
from tests.world.origin import ScriptedOrigin


def test_it_asks_the_daemon_and_all_that_is_around_it(tmp_path: Path, stack: ExitStack) -> None:
    node = Node(tmp_path / "node", {"docker.io": ScriptedOrigin().start(stack)})
    node.start(stack)
    (tmp_path / "root").mkdir()
    file = tmp_path / "shoal.toml"
    file.write_text("")
    later = time.time() + 60
    os.utime(file, (later, later))
    examined = Examiner(tmp_path / "root", node.environment).run("--config", str(file))
    well = {each.code for each in examined.findings if each.level == "ok"}
    assert {"daemon-up", "mirror-serves", "clock-right", "store-good", "swarm-idle"} <= well
    assert examined.faults == {
        "daemon-not-reloaded": "warning",
        "runtime-none": "warning",
        "supernode-none": "warning",
        "origin-foreign": "error",
    }
    assert examined.code == 1


def test_people_read_levels_texts_codes_and_remedies(tmp_path: Path, shoal: Shoal) -> None:
    environment = Node(tmp_path, {"docker.io": "http://127.0.0.1:1"}).environment
    ended = shoal("doctor", "--root", tmp_path, **environment, COLUMNS="100")
    assert ended.code == 1
    assert "Daemon\n  error    The daemon is not running" in ended.out
    assert "[daemon-down]\n           > Start it: `systemctl start shoal-peer`" in ended.out
    assert "[origin-unreachable]" in ended.out
    assert max(map(len, ended.out.splitlines())) <= 100


def test_a_fault_in_one_part_does_not_hide_the_others(
    tmp_path: Path, shoal: Shoal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(_: Subject) -> list[Finding]:
        raise KeyError("a fault")

    monkeypatch.setattr(examination, "PARTS", {**examination.PARTS, "Clock": failing})
    environment = Node(tmp_path, {"docker.io": "http://127.0.0.1:1"}).environment
    ended = shoal("doctor", "--json", "--root", tmp_path, **environment)
    codes = [finding["code"] for part in ended.told["parts"] for finding in part["findings"]]
    assert {"part-failed", "daemon-down", "store-good"} <= set(codes)
    assert "doctor.part_failed" in ended.err


def test_a_configuration_that_cannot_be_used_is_a_finding(tmp_path: Path, shoal: Shoal) -> None:
    missing = str(tmp_path / "shoal.toml")
    ended = shoal("doctor", "--json", "--config", missing)
    assert ended.code == 2
    (part,) = ended.told["parts"]
    (finding,) = part["findings"]
    assert finding["code"] == "configuration-unusable"
    assert missing in finding["text"]
    assert "--print-config" in finding["remedy"]
