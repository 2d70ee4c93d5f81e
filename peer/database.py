"""What goes wrong with SQLite files whose loss costs work and nothing else: damage, and disks that take nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

FAILURES = (sqlite3.Error, ValueError, TypeError)
"""Damage that SQLite does not see shows as values of other types."""

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH}
_REFUSALS = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
_PRIMARY_CODE = 0xFF
"""Of SQLite's extended result codes, the part that names the kind of error."""


def is_refused(error: Exception) -> bool:
    """Whether a database could not be written because its disk takes nothing."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE in _REFUSALS


def is_damage(error: Exception) -> bool:
    """Whether the file is no good, and is best made anew."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & _PRIMARY_CODE in _DAMAGE


def unlink(path: Path) -> None:
    """Remove a database with its journal: whoever opens it next makes it anew. Raises `OSError`."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
