"""What tells that a file has changed."""

from __future__ import annotations

from pathlib import Path

FileState = tuple[int, int, int]


def file_state(file: Path) -> FileState | None:
    """Inode, size and time of a file, of which one changes when the file does; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
