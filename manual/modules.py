"""docs/modules.md: all modules of the program, with the first sentence of each one's docstring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from manual.marks import escaped

_ROOT = Path(__file__).parent.parent
_ROOMS = ("shoal", "supernode", "peer", "proxy")

_INTRODUCTION = """\
# Modules

<!-- Written by `make manual` from the modules themselves. -->

All modules of the program with what each is, room by room. [Architecture](architecture.md) says how they work together.
"""


def modules_page() -> str:
    """The page as it should be."""
    packages = sorted(path.parent for room in _ROOMS for path in (_ROOT / room).rglob("__init__.py"))
    return "\n".join([_INTRODUCTION, *(line for package in packages for line in _package(package))])


def _package(folder: Path) -> Iterator[str]:
    yield f"## {'.'.join(folder.relative_to(_ROOT).parts)}"
    yield ""
    yield escaped(_sentence(folder / "__init__.py"))
    yield ""
    yield "| module | |"
    yield "| --- | --- |"
    for path in sorted(folder.glob("*.py")):
        if not path.stem.startswith("__"):
            yield f"| `{path.stem}` | {escaped(_sentence(path))} |"
    yield ""


def _sentence(module: Path) -> str:
    """The first paragraph of a docstring, up to the end of its first sentence."""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    head, end, _ = paragraph.partition(". ")
    return f"{head}." if end else paragraph
