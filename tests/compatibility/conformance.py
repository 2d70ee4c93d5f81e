"""The conformance suite of the OCI distribution specification, as a program."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.world.tools import require_tool

_SECONDS = 120.0
_NOT_OF_A_PULL = {
    "OCI_API_BLOBS_DELETE": "false",
    "OCI_API_MANIFESTS_DELETE": "false",
    "OCI_API_TAGS_DELETE": "false",
}


@dataclass(frozen=True)
class Verdict:
    """What the suite says of a registry: its tests by outcome, each name as often as it occurs."""

    passed: Counter[str]
    failed: Counter[str]
    skipped: Counter[str]


def judge(address: str, repository: str, folder: Path) -> Verdict:
    """Let the suite push to the registry at `address` (`host:port`) and pull from there."""
    environment = {
        "OCI_REGISTRY": address,
        "OCI_TLS": "disabled",
        "OCI_REPO1": f"{repository}/one",
        "OCI_REPO2": f"{repository}/two",
        "OCI_RESULTS_DIR": str(folder),
        **_NOT_OF_A_PULL,
    }
    subprocess.run(
        [require_tool("conformance")],
        check=False,  # it fails where one test does, which is for the caller to judge
        capture_output=True,
        timeout=_SECONDS,
        cwd=folder,
        env=os.environ | environment,
    )
    outcomes: dict[str, Counter[str]] = {"passed": Counter(), "failure": Counter(), "skipped": Counter()}
    for case in ElementTree.parse(folder / "junit.xml").iter("testcase"):
        outcomes[case.get("status", "")][case.get("name", "")] += 1
    return Verdict(outcomes["passed"], outcomes["failure"], outcomes["skipped"])
