"""Through a node nothing fails of the distribution specification's suite that the origin itself does not fail.

The suite pulls what it has just pushed: pushes go to the origin, all reads to the node."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.compatibility.conformance import judge
from tests.compatibility.conftest import ALL, Origins, lone_node
from tests.world.front import Front
from tests.world.registries import Olareg, Registry
from tests.world.tools import TOOLS, require_tool

VERSIONS = {
    "olareg": TOOLS["olareg"].version,
    "docker-registry": "2.8, Debian's",
    "distribution 3": TOOLS["registry"].version,
}


@pytest.fixture(params=VERSIONS if ALL else ["olareg"])
def url(request: pytest.FixtureRequest, origins: Origins, tmp_path: Path, stack: ExitStack) -> str:
    """The address of an origin; one that passes most of the suite itself is judged always."""
    request.node.user_properties.append(("version", VERSIONS[request.param]))
    match request.param:
        case "docker-registry":
            return origins.storage.url
        case "distribution 3":
            return Registry(tmp_path / "registry", program=str(require_tool("registry"))).start(stack).url
    return Olareg(tmp_path / "olareg", require_tool("olareg")).start(stack).url


def test_a_node_conforms_as_its_origin_does(
    url: str, tmp_path: Path, stack: ExitStack, record_property: Callable[[str, object], None]
) -> None:
    node = lone_node(tmp_path / "daemon", url)
    node.start(stack)
    front = Front(url, reads=node.url).start(stack)
    verdicts = []
    for name, address in (("origin", url), ("node", front.url)):
        folder = tmp_path / name
        folder.mkdir()
        verdict = judge(address.partition("://")[2], f"library/{name}", folder)
        record_property(f"{name} passed", verdict.passed.total())
        record_property(f"{name} failed", verdict.failed.total())
        verdicts.append(verdict)
    origin, through = verdicts
    assert origin.passed
    assert sorted(through.failed - origin.failed) == []
    assert sorted(through.skipped - origin.skipped) == []
    assert "Traceback" not in node.log
