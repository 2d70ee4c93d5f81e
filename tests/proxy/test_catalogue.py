"""What outlives a restart, in real files, healthy and damaged."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy import catalogue as module
from proxy.catalogue import Catalogue, KnownTag
from shoal.descriptor import MAX_MANIFEST_SIZE, OCI_MANIFEST, BlobKind, Descriptor
from shoal.digest import Digest
from shoal.reference import Location, Tag

AT = Location.parse("registry.example:5000", "team/app")
ELSEWHERE = Location.parse("docker.io", "busybox")
MANIFEST = Descriptor(Digest.of(b"manifest"), 8, OCI_MANIFEST, BlobKind.MANIFEST)
LAYER = Descriptor(Digest.of(b"layer"), 5)
KNOWN = KnownTag(AT, Tag("1.0"), "", MANIFEST)
_NAMES_PAGE = 2 * 4096
"""Where the rows of a small table `names` lie in the file."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalogue.sqlite"


async def filled(path: Path) -> None:
    async with Catalogue(path) as catalogue:
        catalogue.remember(KNOWN)
        catalogue.grant(AT, "anonymous")
        catalogue.name(AT, [LAYER])


async def test_what_was_known_is_known_after_a_restart(path: Path) -> None:
    await filled(path)
    async with Catalogue(path) as catalogue:
        assert list(catalogue.tags) == [KNOWN]
        assert list(catalogue.grants) == [(AT, "anonymous")]
        assert await catalogue.named(AT, LAYER.digest) == LAYER.size
        assert await catalogue.named(ELSEWHERE, LAYER.digest) is None
        assert await catalogue.named(AT, MANIFEST.digest) is None


async def test_the_last_word_counts(path: Path) -> None:
    newer = KNOWN._replace(descriptor=Descriptor(Digest.of(b"new"), 3, OCI_MANIFEST, BlobKind.MANIFEST))
    narrow = KNOWN._replace(accept=OCI_MANIFEST)
    await filled(path)
    async with Catalogue(path) as catalogue:
        catalogue.remember(newer)
        catalogue.remember(narrow)
    async with Catalogue(path) as catalogue:
        assert sorted(catalogue.tags) == sorted([newer, narrow])
        catalogue.forget(AT, KNOWN.tag)
        catalogue.revoke(AT, "anonymous")
        catalogue.revoke(ELSEWHERE, "anonymous")
    async with Catalogue(path) as catalogue:
        assert (list(catalogue.tags), list(catalogue.grants)) == ([], [])


async def test_without_a_file_everything_is_forgotten() -> None:
    async with Catalogue(None) as catalogue:
        catalogue.remember(KNOWN)
        catalogue.name(AT, [LAYER])
        assert await catalogue.named(AT, LAYER.digest) is None


async def test_what_is_written_is_seen_without_a_restart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FLUSH_SECONDS", 0.0)
    async with Catalogue(path) as catalogue, asyncio.timeout(5):
        catalogue.name(AT, [LAYER])
        while (size := await catalogue.named(AT, LAYER.digest)) is None:  # noqa: ASYNC110 - nobody is told of a write
            await asyncio.sleep(0)
        assert size == LAYER.size


async def test_leaving_writes_what_is_underway_and_what_waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FLUSH_SECONDS", 0.0)
    layers = [Descriptor(Digest.of(str(number).encode()), number) for number in range(1, 20_001)]
    async with Catalogue(path) as catalogue:
        catalogue.name(AT, layers)
        await asyncio.sleep(0.01)  # so that a thread is writing them, more or less of them
        catalogue.name(AT, [LAYER])
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM names").fetchone() == (len(layers) + 1,)
    database.close()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def overwritten(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 : 4096 * 3] = b"\xa5" * (4096 * 2)
    path.write_bytes(content)


def of_another_version(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version=77")
    database.close()


def without_its_tables(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE grants")
    database.close()


def not_a_text(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO grants VALUES (CAST(x'ff' AS TEXT), 'a', 'anonymous', 0)")
    database.close()


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        overwritten,
        of_another_version,
        without_its_tables,
        not_a_text,
        lambda path: path.write_bytes(b"no database" * 100),
        lambda path: path.write_bytes(b""),
    ],
    ids=["truncated", "overwritten", "version", "tables", "text", "nonsense", "empty"],
)
async def test_a_damaged_file_is_begun_anew(path: Path, damage: Callable[[Path], None]) -> None:
    await filled(path)
    damage(path)
    async with Catalogue(path) as catalogue:
        assert (list(catalogue.tags), list(catalogue.grants)) == ([], [])
        catalogue.remember(KNOWN)
    async with Catalogue(path) as catalogue:
        assert list(catalogue.tags) == [KNOWN]


async def test_a_file_that_cannot_be_had_is_told_and_missed(path: Path) -> None:
    path.mkdir()
    with capture_logs() as logs:
        async with Catalogue(path) as catalogue:
            catalogue.remember(KNOWN)
            assert await catalogue.named(AT, LAYER.digest) is None
    assert logs[-1]["event"] == "catalogue.unusable"


HOSTILE_TAGS: list[tuple[object, ...]] = [
    ("../etc", "a", "1", "", MANIFEST.digest, 8, "x/y"),
    ("registry.example", "A/../b", "1", "", MANIFEST.digest, 8, "x/y"),
    ("registry.example", "a", "no tag", "", MANIFEST.digest, 8, "x/y"),
    ("registry.example", "a", "1", "", "sha256:short", 8, "x/y"),
    ("registry.example", "b", "1", "", MANIFEST.digest, -1, "x/y"),
    ("registry.example", "c", "1", "", MANIFEST.digest, MAX_MANIFEST_SIZE + 1, "x/y"),
    ("registry.example", "d", "1", "", MANIFEST.digest, "many", "x/y"),
    ("registry.example", "e", "1", "", MANIFEST.digest, 8, None),
    ("registry.example", "f", "1", b"\xff", MANIFEST.digest, 8, "x/y"),
    ("registry.example", b"g", "1", "", MANIFEST.digest, 8, "x/y"),
    ("registry.example", "h", 1.5, "", b"\xff", 8, "x/y"),
]


async def test_damage_that_only_a_write_shows_is_gone_with_the_next_start(path: Path) -> None:
    await filled(path)
    content = bytearray(path.read_bytes())
    content[_NAMES_PAGE + 5 : _NAMES_PAGE + 7] = (8).to_bytes(2, "big")  # where its cells begin
    path.write_bytes(content)
    with capture_logs() as logs:
        async with Catalogue(path) as catalogue:
            assert list(catalogue.tags) == [KNOWN]
            catalogue.name(AT, [MANIFEST])
    assert [entry["event"] for entry in logs] == ["catalogue.failed"]
    await filled(path)
    async with Catalogue(path) as catalogue:
        catalogue.name(AT, [MANIFEST])
    async with Catalogue(path) as catalogue:
        assert await catalogue.named(AT, LAYER.digest) == LAYER.size
        assert await catalogue.named(AT, MANIFEST.digest) == MANIFEST.size


async def test_rows_that_this_program_cannot_have_written_are_passed_over(path: Path) -> None:
    await filled(path)
    with sqlite3.connect(path) as database:
        for row in HOSTILE_TAGS:
            database.execute("INSERT INTO tags VALUES (?, ?, ?, ?, ?, ?, ?, 0)", row)
        for grant in (("../etc", "a", "anonymous"), ("docker.io", b"x", "anonymous"), ("docker.io", "b", b"y")):
            database.execute("INSERT INTO grants VALUES (?, ?, ?, 0)", grant)
    database.close()
    async with Catalogue(path) as catalogue:
        assert list(catalogue.tags) == [KNOWN]
        assert list(catalogue.grants) == [(AT, "anonymous")]


async def test_a_size_that_is_none_is_not_believed(path: Path) -> None:
    await filled(path)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE names SET size = 'many'")
    database.close()
    async with Catalogue(path) as catalogue:
        assert await catalogue.named(AT, LAYER.digest) is None


@pytest.mark.parametrize("restart", [False, True])
async def test_the_oldest_rows_go_first(path: Path, monkeypatch: pytest.MonkeyPatch, restart: bool) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("proxy.catalogue.time.time", lambda: float(next(clock)))
    monkeypatch.setattr(module, "MAX_TAGS", 3)
    monkeypatch.setattr(module, "PRUNE_EVERY", 100 if restart else 1)
    async with Catalogue(path) as catalogue:
        for number in range(10):
            catalogue.remember(KNOWN._replace(tag=Tag(str(number))))
    if restart:
        async with Catalogue(path):
            pass
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT tag FROM tags ORDER BY at").fetchall() == [("7",), ("8",), ("9",)]
    database.close()


async def test_changes_that_wait_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING", 5)
    async with Catalogue(path) as catalogue:
        for number in range(10):
            catalogue.remember(KNOWN._replace(tag=Tag(str(number))))
    async with Catalogue(path) as catalogue:
        assert len(catalogue.tags) == 5


async def test_a_full_disk_is_told_and_survived(path: Path) -> None:
    await filled(path)
    with capture_logs() as logs:
        async with Catalogue(path) as catalogue:
            assert catalogue._database is not None
            catalogue._database.execute("PRAGMA max_page_count=1")
            catalogue.name(AT, [Descriptor(Digest.of(str(n).encode()), 1) for n in range(5000)])
    assert [entry["event"] for entry in logs] == ["catalogue.failed"]
    async with Catalogue(path) as catalogue:
        assert list(catalogue.tags) == [KNOWN]


async def test_threads_of_cancelled_tasks_do_not_meet_a_closed_database(tmp_path: Path) -> None:
    for attempt in range(20):
        async with Catalogue(tmp_path / f"{attempt}.sqlite") as catalogue:
            catalogue.name(AT, [Descriptor(Digest.of(bytes([place])), 1) for place in range(200)])
            looking = [asyncio.create_task(catalogue.named(AT, Digest.of(bytes([place])))) for place in range(20)]
            await asyncio.sleep(0)
            for task in looking:
                task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)
        assert await catalogue.named(AT, Digest.of(b"x")) is None
