"""What is known of the store's files, so that a start need not read them again: one SQLite file.

Losing it costs reading the blobs again, which tells what was verified and what manifests name, and the times of their
last use. So commits are not synced, and a failure to write is logged.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

from peer.database import FAILURES, is_damage, is_refused, unlink
from peer.disk import Stamp, StoreError
from peer.references import Names
from shoal.digest import Digest

log = structlog.get_logger()

_VERSION = 2
_BUSY_SECONDS = 5.0
"""For which a start waits for whoever else holds the file, as a backup does."""
_SETTINGS = "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
_SCHEMA = f"""  -- inodes are text: they may be larger than SQLite's integers
    BEGIN;
    CREATE TABLE blobs (
        digest TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode TEXT NOT NULL,
        used REAL NOT NULL, checked REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE manifests (digest TEXT PRIMARY KEY, names TEXT NOT NULL) WITHOUT ROWID;
    PRAGMA user_version={_VERSION};
    COMMIT;
"""


_Changes = list[tuple[str, Sequence[tuple[str | int | float, ...]]]]
"""Statements, each with its rows."""


class Entry(NamedTuple):
    """One blob: its file as it was when its content was verified, and times in seconds since the epoch."""

    stamp: Stamp
    used: float
    """When it was last read or written."""
    checked: float
    """When its content was last hashed."""


class Contents(NamedTuple):
    """All that an index holds, by digest. Digests are texts as they were written: whoever needs them parses them."""

    blobs: dict[str, Entry]
    manifests: dict[str, str]
    """What manifests name, for `names_in`."""


def names_in(text: str, known: Mapping[str, Digest]) -> Names:
    """What a manifest names, as an index tells it; raises `InvalidDigest`.

    `known`: digests by their texts. Most are named by some manifest, and then exist once.
    """
    named, _, subject = text.partition("|")
    each = (known.get(digest) or Digest(digest) for digest in named.split())
    return Names(tuple(each), Digest(subject) if subject else None)


class _Damaged(ValueError):
    """The file is no index of this version."""


class Index:
    """What is known of verified files. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._guard = threading.Lock()

    def open(self) -> Contents:
        """All that is known; nothing where the file is missing or damaged, and is made anew. Raises `StoreError`.

        Where the disk takes nothing, what is known is read, and changes are dropped.
        """
        try:
            try:
                return self._open()
            except FAILURES as error:
                self.close()
                if is_refused(error):
                    log.warning("index.read_only", path=str(self._path), reason=str(error))
                    return self._read_only()
                if not is_damage(error):
                    raise
                log.warning("index.rebuilt", path=str(self._path), reason=str(error))
                unlink(self._path)
                return self._open()
        except FAILURES as error:
            self.close()
            raise StoreError(f"cannot open {self._path}: {error}") from error

    def close(self) -> None:
        """What is added or removed later is dropped."""
        with self._guard:
            database, self._database = self._database, None
            if database is not None:
                database.close()

    def add(self, digest: Digest, entry: Entry, names: Names | None) -> None:
        """Remember a verified blob; `names`: what it names, where it is a manifest."""
        stamp, used, checked = entry
        row = (digest, stamp.size, stamp.mtime_ns, str(stamp.inode), used, checked)
        changes: _Changes = [("INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?, ?, ?)", [row])]
        if names is not None:
            about = (digest, f"{' '.join(names.named)}|{names.subject or ''}")
            changes.append(("INSERT OR REPLACE INTO manifests VALUES (?, ?)", [about]))
        self._change(changes)

    def remove(self, digests: Collection[str]) -> None:
        """Forget these blobs."""
        rows = [(digest,) for digest in digests]
        self._change([(f"DELETE FROM {table} WHERE digest = ?", rows) for table in ("blobs", "manifests")])

    def note(self, times: Mapping[Digest, Entry]) -> None:
        """When these blobs were used and checked."""
        rows = [(entry.used, entry.checked, digest) for digest, entry in times.items()]
        self._change([("UPDATE blobs SET used = ?, checked = ? WHERE digest = ?", rows)])

    def _change(self, changes: _Changes) -> None:
        """All of it or nothing."""
        with self._guard:
            if self._database is None:
                return
            try:
                with self._database:
                    for statement, rows in changes:
                        self._database.executemany(statement, rows)
            except sqlite3.Error as error:
                log.warning("index.failed", path=str(self._path), error=str(error))
                if is_damage(error):  # that reading has not shown, and would not the next time either
                    self._database.close()
                    self._database = None
                    with contextlib.suppress(OSError):
                        unlink(self._path)

    def _open(self) -> Contents:
        database = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, check_same_thread=False)
        self._database = database
        database.executescript(_SETTINGS)
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            database.executescript(_SCHEMA)
        elif version != _VERSION:
            raise _Damaged(f"version {version} instead of {_VERSION}")
        return _contents(database)

    def _read_only(self) -> Contents:
        """What the file itself holds, without its journal; where that is behind the blobs, these are hashed again."""
        if not self._path.exists():
            return Contents({}, {})
        uri = f"{self._path.absolute().as_uri()}?immutable=1"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
            return _contents(database)


def _contents(database: sqlite3.Connection) -> Contents:
    rows = database.execute("SELECT digest, size, mtime_ns, inode, used, checked FROM blobs")
    blobs = {
        str(digest): Entry(Stamp(size, mtime_ns, int(inode)), float(used), float(checked))
        for digest, size, mtime_ns, inode, used, checked in rows
    }
    manifests = dict(database.execute("SELECT digest, names FROM manifests"))
    return Contents(blobs, {str(digest): str(names) for digest, names in manifests.items()})
