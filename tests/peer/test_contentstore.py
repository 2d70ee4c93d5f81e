"""containerd's content store as a read-only source: what is offered was hashed, and is withdrawn when it goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from peer.contentstore import ContentStore
from peer.offering import Offering
from peer.workers import Workers
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from tests.world.images import random_bytes

CONTENT = b"a layer that containerd has pulled"
DIGEST = Digest.of(CONTENT)
KEY = BlobKey(DIGEST, len(CONTENT))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of a containerd that holds one blob."""
    folder = tmp_path / "content" / "blobs" / "sha256"
    folder.mkdir(parents=True)
    (folder / DIGEST.hex).write_bytes(CONTENT)
    return tmp_path / "content"


@pytest.fixture
def content(root: Path, tmp_path: Path) -> Iterator[ContentStore]:
    content = ContentStore(root, tmp_path / "content.sqlite")
    content.open()
    yield content
    content.close()


@pytest.fixture
def told() -> list[tuple[str, BlobKey]]:
    return []


@pytest.fixture
def offering(content: ContentStore, workers: Workers, told: list[tuple[str, BlobKey]]) -> Offering:
    return Offering(
        content, workers, lambda key: told.append(("offered", key)), lambda key: told.append(("withdrawn", key))
    )


def path_of(root: Path, digest: Digest = DIGEST) -> Path:
    return root / "blobs" / digest.algorithm / digest.hex


async def test_what_is_there_is_hashed_and_offered_once(
    offering: Offering, content: ContentStore, told: list[tuple[str, BlobKey]]
) -> None:
    assert content.open_blob(DIGEST) is None
    await offering.look()
    await offering.look()
    assert told == [("offered", KEY)]
    assert (content.size(DIGEST), list(content.digests())) == (len(CONTENT), [(DIGEST, len(CONTENT))])
    opened = content.open_blob(DIGEST)
    assert opened is not None
    with opened:
        assert os.pread(opened.fd, opened.size, 0) == CONTENT


async def test_what_was_hashed_is_offered_at_once_after_a_restart(
    offering: Offering, content: ContentStore, told: list[tuple[str, BlobKey]]
) -> None:
    await offering.look()
    content.close()
    content.open()
    assert content.size(DIGEST) == len(CONTENT)
    await offering.look()
    assert told == [("offered", KEY)]


async def test_a_wrong_file_is_not_offered_until_it_is_another_one(
    offering: Offering, content: ContentStore, root: Path, told: list[tuple[str, BlobKey]]
) -> None:
    path_of(root).write_bytes(b"something else")
    await offering.look()
    assert content.look().new == []
    assert told == []
    path_of(root).write_bytes(CONTENT)
    await offering.look()
    assert told == [("offered", KEY)]


def remove(path: Path) -> None:
    path.unlink()


def change(path: Path) -> None:
    path.write_bytes(CONTENT[::-1])


def cut(path: Path) -> None:
    os.truncate(path, 5)


def link(path: Path) -> None:
    path.rename(path.with_name("kept"))
    path.symlink_to("kept")


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("harm", [remove, change, cut, link, make_fifo])
async def test_what_goes_is_withdrawn_and_never_read(
    offering: Offering,
    content: ContentStore,
    root: Path,
    told: list[tuple[str, BlobKey]],
    harm: Callable[[Path], None],
) -> None:
    await offering.look()
    harm(path_of(root))
    await offering.look()
    assert told == [("offered", KEY), ("withdrawn", KEY)]
    assert content.size(DIGEST) is None


@pytest.mark.parametrize("harm", [remove, change, cut, link, make_fifo])
async def test_what_has_gone_since_the_last_look_is_not_opened(
    offering: Offering, content: ContentStore, root: Path, harm: Callable[[Path], None]
) -> None:
    await offering.look()
    harm(path_of(root))
    assert content.open_blob(DIGEST) is None
    assert content.size(DIGEST) is None


async def test_what_is_no_blob_is_passed_over(offering: Offering, root: Path, told: list[tuple[str, BlobKey]]) -> None:
    folder = path_of(root).parent
    (folder / "readme").write_bytes(CONTENT)
    (folder / ("0" * 64)).mkdir()
    os.mkfifo(folder / ("1" * 64))
    (folder / ("2" * 64)).symlink_to(DIGEST.hex)
    await offering.look()
    assert told == [("offered", KEY)]


async def test_a_folder_that_is_not_there_holds_nothing_until_it_is(
    offering: Offering, root: Path, tmp_path: Path, told: list[tuple[str, BlobKey]]
) -> None:
    root.rename(tmp_path / "away")
    await offering.look()
    assert told == []
    (tmp_path / "away").rename(root)
    await offering.look()
    assert told == [("offered", KEY)]


def test_a_folder_that_is_not_there_is_told_once(content: ContentStore, root: Path, tmp_path: Path) -> None:
    with capture_logs() as logs:
        content.look()
        root.rename(tmp_path / "away")
        for _ in range(3):
            content.look()
        (tmp_path / "away").rename(root)
        content.look()
    assert [(each["event"], each["folder"]) for each in logs] == [("content.unreadable", str(root))]


async def test_a_file_that_changes_while_it_is_hashed_is_not_offered(content: ContentStore, root: Path) -> None:
    file = content.unchecked(DIGEST)
    assert file.step(5) == 5
    path_of(root).write_bytes(CONTENT)
    os.utime(path_of(root), ns=(1, 1))
    while file.step(1 << 20):
        pass
    assert content.checked(file) is None
    file.close()


async def test_a_damaged_index_costs_hashing_again(
    offering: Offering, content: ContentStore, tmp_path: Path, told: list[tuple[str, BlobKey]]
) -> None:
    await offering.look()
    content.close()
    (tmp_path / "content.sqlite").write_bytes(random_bytes(5000, "damage"))
    content.open()
    await offering.look()
    assert told == [("offered", KEY), ("offered", KEY)]
