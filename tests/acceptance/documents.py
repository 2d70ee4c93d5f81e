"""The documents, as they stand there: blocks, spans of code, links and headings.

A block that begins with three backticks, `sh` and some words is meant to be typed; the words say where. They are not
shown where the document is read. The first word says which test types it:

- `first`, `second`, `both`: `test_quickstart`, on one machine or both
- `units`: `test_units`, where systemd runs
- `dist`: `test_packages`, in the folder with what a build gives out
- `node`: `test_documents`, on a machine with a supernode and a node
- `clone`: `test_documents`, in a clone of the project
- `files`: `test_documents`, whose `shoal config` looks at the files below a folder
- `examples`: the examples of a command's help, which are read by the command line itself
- `elsewhere`: none, for the reason that `ELSEWHERE` gives for the second word; the command line reads what is Shoal's
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

TYPED = frozenset({"first", "second", "both", "units", "dist", "node", "clone", "files", "examples"})
ELSEWHERE = {
    "developer": "they are this project's own tests",
    "image": "they need images of the internet; test_image and test_packages do the same with what is here",
    "index": "they need an index of packages",
    "kubernetes": "they need a cluster; test_chart renders the chart",
    "openshift": "they need a cluster of OpenShift",
    "packages": "they take minutes; test_packages does the same",
}

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^( *)```(\w*)([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Something that is typed, shown or written."""

    document: Path
    language: str
    words: tuple[str, ...]
    """What stands behind the language."""
    text: str


def blocks(document: Path) -> Iterator[Block]:
    """All blocks of a document, in order."""
    for indent, language, words, text in _BLOCK.findall(document.read_text()):
        lines = (line.removeprefix(indent) for line in text.splitlines(keepends=True))
        yield Block(document, language, tuple(words.split()), "".join(lines))


def typed(document: Path) -> list[Block]:
    """The blocks that are typed into a shell."""
    return [block for block in blocks(document) if block.language == "sh"]


def documents() -> list[Path]:
    """All documents that people read, the change log aside: it tells of what was."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")]
    return sorted(path for path in found if path.name != "CHANGELOG.md")


def commands(text: str) -> Iterator[list[str]]:
    """The words of each line that is typed; a line that ends with a backslash goes on."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def prose(document: Path) -> str:
    """A document without its blocks."""
    return _BLOCK.sub("", document.read_text())


def spans(document: Path) -> set[str]:
    """What stands between backticks in the text."""
    return set(_SPAN.findall(prose(document)))


def links(document: Path) -> set[str]:
    """Where links and pictures of the text lead to."""
    return set(_LINK.findall(_SPAN.sub("", prose(document))))


def anchors(document: Path) -> set[str]:
    """The names of its headings in links."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(document)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        found.add(name if name not in found else next(n for i in range(1, 99) if (n := f"{name}-{i}") not in found))
    return found
