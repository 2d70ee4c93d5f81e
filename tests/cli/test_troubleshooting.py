"""docs/troubleshooting.md tells of each finding, and of no other one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from shoal.cli.runtimes.catalog import RUNTIMES

_PROJECT = Path(__file__).parents[2]
_ANY = "RUNTIME"
_CODE = re.compile(r"(?:[a-z0-9]+|RUNTIME)(?:-[a-z0-9]+)+")
_DOCUMENT_CODE = 3
"""The place of the code among the arguments of a runtime's `Document`."""


def test_each_finding_is_told_of_and_no_other_one() -> None:
    page = (_PROJECT / "docs/troubleshooting.md").read_text()
    told = re.findall(rf"^\| `({_CODE.pattern})` \|", page, re.MULTILINE)
    told += re.findall(rf"`({_CODE.pattern})`", page.partition("## What is well")[2])
    assert len(told) == len(set(told))
    assert set(told) == _found()


def test_links_inside_the_page_lead_to_its_headings() -> None:
    page = (_PROJECT / "docs/troubleshooting.md").read_text()
    headings = {line.lstrip("# ").lower().replace(" ", "-") for line in page.splitlines() if line.startswith("#")}
    assert set(re.findall(r"\(#([a-z-]+)\)", page)) <= headings


def _found() -> set[str]:
    """The names of all findings in the code; RUNTIME for the name of any runtime."""
    folder = _PROJECT / "shoal/cli"
    files = [*(folder / "doctor").glob("*.py"), *(folder / "runtimes").glob("*.py")]
    codes = {code for file in files for code in _codes(ast.parse(file.read_text()))}
    runtimes = "|".join(RUNTIMES)
    return {any_ if (any_ := re.sub(rf"^(?:{runtimes})-", f"{_ANY}-", code)) in codes else code for code in codes}


def _codes(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="Finding"), args=[code, *_]):
                yield from _texts(code)
            case ast.Call(func=ast.Name(id="Document"), args=arguments) if len(arguments) > _DOCUMENT_CODE:
                yield from _texts(arguments[_DOCUMENT_CODE])
            case ast.Assign(targets=[ast.Name(id="code")], value=value):
                yield from _texts(value)


def _texts(node: ast.expr) -> Iterator[str]:
    """A code that stands in the program; of one with the runtime's name in it, with RUNTIME in its place."""
    text = ""
    if isinstance(node, ast.Constant):
        text = str(node.value)
    elif isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else _ANY for part in node.values)
    if _CODE.fullmatch(text):
        yield text
