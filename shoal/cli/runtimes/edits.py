"""Lines of Shoal's in files of others, between two comments, so that they can be taken out again.

What a block replaces stands in it as comments (`# was:`), and comes back when the block is taken out. TOML and YAML
have the same comments.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

_BEGIN = "# shoal: begin (lines of `shoal config`, which its --undo takes out)"
_END = "# shoal: end"
_WAS = "# was:"


class NotEditable(ValueError):
    """Content that cannot be changed without a risk for what is not Shoal's; the text says why."""


@contextlib.contextmanager
def in_file(path: PurePosixPath) -> Iterator[None]:
    """What cannot be edited is said to be in this file."""
    try:
        yield
    except NotEditable as error:
        raise NotEditable(f"{path}: {error}") from None


def lines_of(text: str) -> list[str]:
    """Its lines with their ends; other characters that Python takes for ends of lines are none here."""
    return list(io.StringIO(text, newline="\n"))


def block(lines: Sequence[str], replaced: str = "", indent: str = "") -> str:
    """`lines` as a block that stands for the lines `replaced`."""
    was = [_WAS + line.removesuffix("\n") for line in lines_of(replaced)]
    return "".join(f"{indent}{line}\n" for line in (_BEGIN, *was, *lines, _END))


def without_blocks(text: str) -> str:
    """The text as it is without blocks of Shoal's; raises `NotEditable` where one has lost its end."""
    kept: list[str] = []
    in_block = False
    for line in lines_of(text):
        words = line.strip()
        if not in_block and words == _BEGIN:
            in_block = True
        elif not in_block:
            kept.append(line)
        elif words == _END:
            in_block = False
        elif words.startswith(_WAS):
            kept.append(line.partition(_WAS)[2])
    if in_block:
        raise NotEditable(f"the line `{_BEGIN}` has no `{_END}` behind it")
    return "".join(kept)


def appended(text: str, addition: str) -> str:
    """`addition` behind the text, on a line of its own."""
    return f"{text}\n{addition}" if text and not text.endswith("\n") else text + addition
