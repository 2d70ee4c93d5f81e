"""Through a node nothing fails of the distribution specification's suite that the origin itself does not fail.

The suite pulls what it has just pushed: pushes go to the origin, all reads to the node."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.compatibility.conformance import judge
from tests.compatibility.conftest import ALL, Origins, lone_node
from tests.world.front import Front
from tests.world.registries import Olareg, Registry
from tests.world.tools import require_tool


@pytest.fixture(params=["olareg", "docker-registry", "distribution 3"] if ALL else ["olareg"])
def url(request: pytest.FixtureRequest, origins: Origins, tmp_path: Path, stack: ExitStack) -> str:
    """The address of an origin; one that passes most of the suite itself is judged always."""
    match request.param:
        case "docker-registry":
            return origins.storage.url
        case "distribution 3":
            return Registry(tmp_path / "registry", program=str(require_tool("registry"))).start(stack).url
    return Olareg(tmp_path / "olareg", require_tool("olareg")).start(stack).url


def test_a_node_conforms_as_its_origin_does(url: str, tmp_path: Path, stack: ExitStack) -> None:
    node = lone_node(tmp_path / "daemon", url)
    node.start(stack)
    front = Front(url, reads=node.url).start(stack)
    verdicts = []
    for name, address in (("origin", url), ("node", front.url)):
        folder = tmp_path / name
        folder.mkdir()
        verdicts.append(judge(address.partition("://")[2], f"library/{name}", folder))
    origin, through = verdicts
    assert origin.passed
    assert sorted(through.failed - origin.failed) == []
    assert sorted(through.skipped - origin.skipped) == []
    assert "Traceback" not in node.log
