"""Admission rules that change under a running node, and the audit log that it keeps."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.world.nodes import Node
from tests.world.programs import ProgramFailed, require, run
from tests.world.registries import Registry

RULE = '[[rules]]\nname = "no-debian"\nverdict = "deny"\nimages = ["docker.io/library/debian"]\n'
_SECONDS = 10.0


def skopeo(node: Node, target: Path) -> None:
    source = f"docker://127.0.0.1:{node.proxy_port}/library/debian:real"
    run("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", source, f"oci:{target}:it")


def test_rules_change_without_a_restart_and_everything_is_noted(
    registry: Registry, debian: str, tmp_path: Path, stack: ExitStack
) -> None:
    require("skopeo")
    rules, log = tmp_path / "rules.toml", tmp_path / "audit.log"
    rules.write_text(RULE)
    settings = {"SHOAL_PROXY__ADMISSION__FILE": str(rules), "SHOAL_PROXY__AUDIT": str(log)}
    node = Node(tmp_path / "node", {"docker.io": registry.url}, settings=settings)
    daemon = node.start(stack)
    with pytest.raises(ProgramFailed, match=r"rule .no-debian. .* denies docker\.io/library/debian:real"):
        skopeo(node, tmp_path / "out")
    assert node.received("origin") == 0
    rules.write_text(f"dry_run = true\n{RULE}")
    deadline = time.monotonic() + _SECONDS
    while "admission.rules_read" not in node.log:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    skopeo(node, tmp_path / "out")
    assert node.counted('shoal_proxy_admission_total{rule="no-debian",verdict="deny"}') >= 1
    assert node.counted('shoal_proxy_admission_total{rule="no-debian",verdict="would_deny"}') >= 5
    daemon.__exit__(None, None, None)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["status"] for line in lines if line.get("verdict") == "deny"] == [403]
    pulled = [line for line in lines if line.get("verdict") == "would_deny"]
    assert {line["client"] for line in pulled} == {"127.0.0.1"}
    assert sum(line["bytes"] for line in pulled) > 10 << 20
    assert {line["route"] for line in pulled} == {"manifest", "blob"}
