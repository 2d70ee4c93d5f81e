"""What was verified of the store's files, so that a start need not hash them again: one SQLite file.

Losing it costs hashing the blobs again and nothing else. So commits are not synced, and a failure to write is logged.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path

import structlog

from peer.disk import Stamp, StoreError
from shoal.digest import Digest

log = structlog.get_logger()

_VERSION = 1
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH}
_FAILURES = (sqlite3.Error, ValueError, TypeError)
"""Damage that SQLite does not see shows as values of other types."""
_PRIMARY_CODE = 0xFF
"""Of SQLite's extended result codes, the part that names the kind of error."""
_SETTINGS = "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
_SCHEMA = f"""  -- inodes are text: they may be larger than SQLite's integers
    BEGIN;
    CREATE TABLE blobs (
        digest TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode TEXT NOT NULL
    ) WITHOUT ROWID;
    PRAGMA user_version={_VERSION};
    COMMIT;
"""


class _Damaged(ValueError):
    """The file is no index of this version."""


class Index:
    """The stamps that files had when their content was verified. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._guard = threading.Lock()

    def open(self) -> dict[str, Stamp]:
        """All stamps by digest; none where the file is missing or damaged, and is made anew. Raises `StoreError`."""
        try:
            try:
                return self._open()
            except _FAILURES as error:
                self.close()
                if not _is_damage(error):
                    raise
                log.warning("index.rebuilt", path=str(self._path), reason=str(error))
                for suffix in ("", "-wal", "-shm"):
                    self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
                return self._open()
        except _FAILURES as error:
            self.close()
            raise StoreError(f"cannot open {self._path}: {error}") from error

    def close(self) -> None:
        """What is added or removed later is dropped."""
        with self._guard:
            database, self._database = self._database, None
            if database is not None:
                database.close()

    def add(self, digest: Digest, stamp: Stamp) -> None:
        """Remember that the file with this stamp has the content that `digest` names."""
        self._change(
            "INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?)", [(digest, stamp.size, stamp.mtime_ns, str(stamp.inode))]
        )

    def remove(self, digests: Iterable[str]) -> None:
        """Forget these blobs."""
        self._change("DELETE FROM blobs WHERE digest = ?", [(digest,) for digest in digests])

    def _change(self, statement: str, rows: list[tuple[str | int, ...]]) -> None:
        with self._guard:
            if self._database is None or not rows:
                return
            try:
                with self._database:
                    self._database.executemany(statement, rows)
            except sqlite3.Error as error:
                log.warning("index.failed", path=str(self._path), error=str(error))

    def _open(self) -> dict[str, Stamp]:
        database = sqlite3.connect(self._path, check_same_thread=False)
        self._database = database
        database.executescript(_SETTINGS)
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            database.executescript(_SCHEMA)
        elif version != _VERSION:
            raise _Damaged(f"version {version} instead of {_VERSION}")
        rows = database.execute("SELECT digest, size, mtime_ns, inode FROM blobs")
        return {digest: Stamp(size, mtime_ns, int(inode)) for digest, size, mtime_ns, inode in rows}


def _is_damage(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code & _PRIMARY_CODE in _DAMAGE
