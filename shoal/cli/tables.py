"""Tables for people: as wide as they are, so that a row is one line for other programs too."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

_UNBOUNDED = 10_000


def show(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on standard output. On a terminal the first column is folded where the others leave no room."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", no_wrap=place > 0)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, width=None if sys.stdout.isatty() else _UNBOUNDED).print(table)
