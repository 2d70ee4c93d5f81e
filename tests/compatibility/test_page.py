"""The page that others read is of these clients, situations and versions."""

from __future__ import annotations

from pathlib import Path

from tests.compatibility import test_artifacts, test_manners, test_matrix
from tests.compatibility.page import SITUATIONS, Outcome, client_names, page, titles
from tests.world.built_clients import BUILT
from tests.world.clients import DEBIAN
from tests.world.tools import COMPARED

PAGE = Path(__file__).parents[2] / "docs/compatibility.md"


def test_the_page_has_each_client_and_each_situation() -> None:
    text = PAGE.read_text()
    assert client_names(text) == [client.name for client in (*DEBIAN, *BUILT)]
    assert titles(text) == [title for title, _ in SITUATIONS.values()]


def test_the_page_tells_the_versions_that_are_built() -> None:
    text = PAGE.read_text()
    assert [tool.name for tool in COMPARED if tool.version not in text] == []


def test_each_test_of_a_client_is_a_situation() -> None:
    tests = {
        name
        for module in (test_matrix, test_artifacts, test_manners)
        for name, function in vars(module).items()
        if name.startswith("test_") and "client" in function.__annotations__
    }
    assert tests == {key.partition("[")[0] for key in SITUATIONS}


def test_a_cell_says_what_was_found() -> None:
    text = page(
        [
            Outcome("one", "test_cold", "passed", properties=(("version", "1.2"),)),
            Outcome("one", "test_warm", "failed"),
            Outcome("one", "test_index", "skipped", "has none"),
        ]
    )
    assert "| one | 1.2 | yes | **fails** |  |  | n/a |" in text
    assert "n/a, index: has none (one)." in text
