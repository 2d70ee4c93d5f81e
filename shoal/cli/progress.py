"""Progress bars on a terminal: how many bytes of what are done."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from shoal.descriptor import Descriptor
from shoal.digest import Digest

_SHOWN_DIGITS = 12


def bars(console: Console, last: ProgressColumn | None = None) -> Bars:
    """Bars of bytes, shown where `console` is a terminal. `last` ends each; None: the time that is left."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Bars(*columns, last or TimeRemainingColumn(), console=console, disable=not console.is_terminal)


class Barred:
    """What shows bars as long as its context lasts."""

    def __init__(self, shown: Bars) -> None:
        self._bars = shown

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._bars.stop()


class PullBars(Barred):
    """A bar for each blob (`shoal.cli.image.Progress`), shown inside the context where `console` is a terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__(bars(console))
        self._tasks: dict[Digest, TaskID] = {}

    def found(self, blobs: list[Descriptor]) -> None:
        """The image consists of these blobs."""
        for blob in blobs:
            self._tasks[blob.digest] = self._bars.add_task(blob.digest.hex[:_SHOWN_DIGITS], total=blob.size)

    def moved(self, blob: Descriptor, read: int) -> None:
        """`read` bytes of a blob are here."""
        self._bars.update(self._tasks[blob.digest], completed=read)
