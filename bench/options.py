"""Options that measurements have in common."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_MEMORY = Path("/dev/shm")
_ZEROS = bytes(1 << 20)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
runs_option = click.option(
    "--runs", type=click.IntRange(1), default=5, show_default=True, help="Runs of each contender."
)
folder_option = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where stores and caches lie. Default: in memory where there is room for them, else the temporary folder.",
)


@contextmanager
def working_folder(folder: Path | None, needed: int) -> Iterator[Path]:
    """A new folder below `folder`, gone afterwards.

    Without `folder` it lies in memory where twice the `needed` bytes are free there, so that the disk is not what is
    measured.
    """
    parent = folder or (_MEMORY if _free_memory() > 2 * needed else Path(tempfile.gettempdir()))
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-", dir=parent) as made:
        yield Path(made)


def touch_memory(folder: Path, size: int) -> None:
    """Have `size` bytes of the folder's memory at hand, so that the next write does not wait for the host to find it.

    A virtual machine gives what it does not use back to its host, and getting it again costs several times the write.
    """
    place = folder / "touched"
    with place.open("wb") as file:
        for start in range(0, size, len(_ZEROS)):
            file.write(_ZEROS[: size - start])
    place.unlink()


def file_system(folder: Path) -> str:
    """The kind of file system that a folder is on, such as `tmpfs`."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    found = [(Path(mount[1]), mount[2]) for mount in mounts if folder.resolve().is_relative_to(mount[1])]
    return max(found, key=lambda mount: len(mount[0].parts))[1]


def require_root() -> None:
    """Raises `click.ClickException` where this process may not make network namespaces."""
    if os.geteuid() != 0:
        raise click.ClickException("this measurement needs root: it makes network namespaces and shapes their links")


def require_programs(*names: str) -> None:
    """Raises `click.ClickException` where a contender is not installed."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        raise click.ClickException(f"this measurement needs {', '.join(missing)} (Debian packages of the same name)")


def _free_memory() -> int:
    if not _MEMORY.is_dir():
        return 0
    available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return min(shutil.disk_usage(_MEMORY).free, int(available.split()[1]) << 10)
