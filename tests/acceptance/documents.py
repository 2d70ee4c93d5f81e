"""The commands in the documents, as they stand there.

A block that begins with three backticks, `sh` and some words is meant to be typed; the words say where. They are not
shown where the document is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

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
