"""What outlives a restart of what origins said: tags, what manifests name, what everybody may read. One SQLite file.

Losing it costs questions to the origin and nothing else. So commits are not synced, and a failure to write is logged.
Nothing in it is a secret: of identities it holds those that serve everybody, by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import structlog

from peer.database import FAILURES, is_damage, is_refused, unlink
from shoal.descriptor import MAX_MANIFEST_SIZE, BlobKind, Descriptor
from shoal.digest import Digest, InvalidDigest
from shoal.pieces import MAX_BLOB_SIZE
from shoal.reference import InvalidReference, Location, Tag, parse_tag

log = structlog.get_logger()

CATALOGUE = "catalogue.sqlite"
"""The file's name in the store's folder."""

MAX_TAGS = 50_000
MAX_GRANTS = 50_000
MAX_NAMES = 500_000
"""Rows of each table; the oldest go first, at a start and after each `PRUNE_EVERY` changes."""

PRUNE_EVERY = 50_000

_VERSION = 1
_SETTINGS = "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA busy_timeout=1000;"
_SCHEMA = f"""
    BEGIN;
    CREATE TABLE tags (
        registry TEXT, repository TEXT, tag TEXT, accept TEXT, digest TEXT, size INTEGER, media_type TEXT, at REAL,
        PRIMARY KEY (registry, repository, tag, accept)
    ) WITHOUT ROWID;
    CREATE TABLE names (
        registry TEXT, repository TEXT, digest TEXT, size INTEGER, at REAL, PRIMARY KEY (registry, repository, digest)
    ) WITHOUT ROWID;
    CREATE TABLE grants (
        registry TEXT, repository TEXT, identity TEXT, at REAL, PRIMARY KEY (registry, repository, identity)
    ) WITHOUT ROWID;
    PRAGMA user_version={_VERSION};
    COMMIT;
"""
_PRUNE = "DELETE FROM {0} WHERE at < (SELECT at FROM {0} ORDER BY at DESC LIMIT 1 OFFSET {1})"
_FLUSH_SECONDS = 0.5
_MAX_PLACES = 16
"""Repositories that are told of one blob: a base image's layers are named in many."""
_MAX_ASKED = 500
"""Blobs in one question."""
_MAX_WAITING = 100_000
"""Changes that wait to be written; beyond, they are dropped."""

_Change = tuple[str, tuple[str | int | float, ...]]


class KnownTag(NamedTuple):
    """What a tag stood for when the origin was last asked. `accept` is the client's where it changes the answer."""

    location: Location
    tag: Tag
    accept: str
    descriptor: Descriptor


class Catalogue:
    """An async context manager; writes are collected and done in a thread. Without a file it forgets everything."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._changes: list[_Change] = []
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._turn = threading.Lock()
        """Held by the one thread that uses the database: a task that was cancelled leaves its thread behind."""
        self._since_prune = 0
        self.tags: Sequence[KnownTag] = ()
        """As they were at the start."""
        self.grants: Sequence[tuple[Location, str]] = ()
        """Repositories at the start, and the identity as which everybody might read them."""

    async def __aenter__(self) -> Self:
        if self._path is not None:
            await asyncio.to_thread(self._open, self._path)
            self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
            await asyncio.to_thread(self._flush, self._taken())
        await asyncio.to_thread(self._close)

    def remember(self, known: KnownTag) -> None:
        """A tag stands for this now."""
        (registry, repository), found = (known.location.registry, known.location.repository), known.descriptor
        row = (registry, repository, known.tag, known.accept, found.digest, found.size, found.media_type, time.time())
        self._change("INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def forget(self, location: Location, tag: Tag) -> None:
        """The origin has this tag no more."""
        where = "registry = ? AND repository = ? AND tag = ?"
        self._change(f"DELETE FROM tags WHERE {where}", (location.registry, location.repository, tag))

    def name(self, location: Location, blobs: Iterable[Descriptor]) -> None:
        """A manifest of this repository names these blobs, or they are its manifests."""
        now = time.time()
        for blob in blobs:
            row = (location.registry, location.repository, blob.digest, blob.size, now)
            self._change("INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?, ?)", row)

    def grant(self, location: Location, identity: str) -> None:
        """Everybody may read this repository, as this identity."""
        row = (location.registry, location.repository, identity, time.time())
        self._change("INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?)", row)

    def revoke(self, location: Location, identity: str) -> None:
        """The origin says no to this identity."""
        where = "registry = ? AND repository = ? AND identity = ?"
        self._change(f"DELETE FROM grants WHERE {where}", (location.registry, location.repository, identity))

    async def named(self, location: Location, digest: Digest) -> int | None:
        """The size that a manifest of this repository gave for a blob; None where none named it."""
        if self._database is None:
            return None
        return await asyncio.to_thread(self._named, location, digest)

    async def places(self, digest: Digest) -> list[tuple[Location, int]]:
        """Repositories of which a manifest names a blob, and its size there in bytes; those of late come first."""
        if self._database is None:
            return []
        return await asyncio.to_thread(self._places, digest)

    # --- in a thread ----------------------------------------------------------------------------------------------

    def repositories(self, digests: Sequence[Digest]) -> dict[Digest, list[Location]]:
        """The repositories of which these blobs are known. Looks through the whole table, some times where many are
        asked for."""
        found: dict[Digest, list[Location]] = {}
        for start in range(0, len(digests), _MAX_ASKED):
            some = digests[start : start + _MAX_ASKED]
            marks = ", ".join("?" * len(some))
            query = f"SELECT registry, repository, size, digest FROM names WHERE digest IN ({marks})"
            for *row, digest in self._rows(query, some):
                if (place := _known_place(tuple(row))) is not None:
                    found.setdefault(Digest(digest), []).append(place[0])
        return found

    def _open(self, path: Path) -> None:
        try:
            try:
                self._load(path)
            except FAILURES as error:
                if is_refused(error):  # what it holds is right: it is there again when the disk is mended
                    raise
                log.warning("catalogue.rebuilt", path=str(path), reason=str(error))
                if self._database is not None:
                    self._database.close()
                unlink(path)
                self._load(path)
        except (OSError, *FAILURES) as error:
            log.warning("catalogue.unusable", path=str(path), error=str(error))
            self._database = None

    def _load(self, path: Path) -> None:
        database = self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        database.executescript(_SETTINGS)
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            database.executescript(_SCHEMA)
        elif version != _VERSION:
            raise ValueError(f"version {version} instead of {_VERSION}")
        self.tags = [
            known
            for row in database.execute("SELECT registry, repository, tag, accept, digest, size, media_type FROM tags")
            if (known := _known_tag(row)) is not None
        ]
        rows = database.execute("SELECT registry, repository, identity FROM grants")
        self.grants = [granted for row in rows if (granted := _known_grant(row)) is not None]
        _prune(database)

    def _close(self) -> None:
        with self._turn:
            database, self._database = self._database, None
            if database is not None:
                database.close()

    def _named(self, location: Location, digest: Digest) -> int | None:
        where = "registry = ? AND repository = ? AND digest = ?"
        rows = self._rows(f"SELECT size FROM names WHERE {where}", (location.registry, location.repository, digest))
        return rows[0][0] if rows and isinstance(rows[0][0], int) else None

    def _places(self, digest: Digest) -> list[tuple[Location, int]]:
        """Looks through the whole table: who asks does so seldom."""
        query = "SELECT registry, repository, size FROM names WHERE digest = ? ORDER BY at DESC LIMIT ?"
        rows = self._rows(query, (digest, _MAX_PLACES))
        return [found for row in rows if (found := _known_place(row)) is not None]

    def _rows(self, query: str, values: Sequence[str | int]) -> list[tuple[Any, ...]]:
        """All that is found; nothing where the file fails."""
        with self._turn:
            if self._database is None:
                return []
            try:
                return self._database.execute(query, values).fetchall()
            except sqlite3.Error as error:
                log.warning("catalogue.failed", error=str(error))
                return []

    def _flush(self, changes: list[_Change]) -> None:
        """Write changes; at the end another thread may still be writing those before them."""
        with self._turn:
            database = self._database
            if database is None or not changes:
                return
            try:
                database.execute("BEGIN")
                for statement, row in changes:
                    database.execute(statement, row)
                database.execute("COMMIT")
                self._since_prune += len(changes)
                if self._since_prune >= PRUNE_EVERY:
                    self._since_prune = 0
                    _prune(database)
            except sqlite3.Error as error:
                log.warning("catalogue.failed", error=str(error))
                if is_damage(error):  # that reading has not shown: the next start makes the file anew
                    self._give_up(database)
                elif database.in_transaction:
                    database.execute("ROLLBACK")

    def _give_up(self, database: sqlite3.Connection) -> None:
        self._database = None
        database.close()
        assert self._path is not None
        with contextlib.suppress(OSError):
            unlink(self._path)

    def _change(self, statement: str, row: tuple[str | int | float, ...]) -> None:
        if self._path is not None and len(self._changes) < _MAX_WAITING:
            self._changes.append((statement, row))
            self._wake.set()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(_FLUSH_SECONDS)
            self._wake.clear()
            await asyncio.to_thread(self._flush, self._taken())

    def _taken(self) -> list[_Change]:
        changes, self._changes = self._changes, []
        return changes


def _prune(database: sqlite3.Connection) -> None:
    for table, most in (("tags", MAX_TAGS), ("names", MAX_NAMES), ("grants", MAX_GRANTS)):
        database.execute(_PRUNE.format(table, most - 1))


def _known_place(row: tuple[object, ...]) -> tuple[Location, int] | None:
    """A repository and a size from `names`, if this class can have written them."""
    try:
        match row:
            case (str(registry), str(repository), int(size)) if 0 <= size <= MAX_BLOB_SIZE:
                return Location.parse(registry, repository), size
    except InvalidReference:
        pass
    return None


def _known_grant(row: tuple[object, ...]) -> tuple[Location, str] | None:
    """A row of `grants`, if this class can have written it."""
    try:
        match row:
            case (str(registry), str(repository), str(identity)):
                return Location.parse(registry, repository), identity
    except InvalidReference:
        pass
    return None


def _known_tag(row: tuple[object, ...]) -> KnownTag | None:
    """A row of `tags`, if this class can have written it."""
    try:
        match row:
            case (str(registry), str(repository), str(tag), str(accept), str(digest), int(size), str(media_type)):
                location, found = Location.parse(registry, repository), Digest(digest)
                if 0 <= size <= MAX_MANIFEST_SIZE:
                    descriptor = Descriptor(found, size, media_type, BlobKind.MANIFEST)
                    return KnownTag(location, parse_tag(tag), accept, descriptor)
    except (InvalidDigest, InvalidReference):
        pass
    return None
