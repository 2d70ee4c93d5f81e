"""Tables for people: as wide as they are, so that a row is one line for other programs too."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

_UNBOUNDED = 10_000
_GAP = 2
"""Characters between two columns."""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of which the first column is folded where the others leave no room."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for place, heading in enumerate(headings):
        made.add_column(heading, overflow="fold", no_wrap=place > 0)
    for row in rows:
        made.add_row(*row)
    return made


def fitting(headings: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> Table:
    """A table of at most `width` characters: its last columns are left out where they have no room."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    shown = len(headings)
    while shown > 1 and sum(widths[:shown]) + _GAP * shown > width:
        shown -= 1
    return table(headings[:shown], (row[:shown] for row in rows))


def console() -> Console:
    """Standard output: as wide as its terminal, or as anything where it is none. Brackets and colons of addresses and
    names mean nothing to it."""
    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else _UNBOUNDED)


def show(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on standard output."""
    console().print(table(headings, rows))
