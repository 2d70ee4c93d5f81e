"""What is remembered of verified files, and that damage to it costs nothing but that memory."""

from __future__ import annotations

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.disk import Stamp, StoreError
from peer.index import Index
from shoal.digest import Digest

STAMPS = {Digest.of(bytes([number])): Stamp(number, 1_700_000_000_000_000_000 + number, 1) for number in range(100)}


def reopened(index: Index) -> dict[str, Stamp]:
    index.close()
    return index.open()


def test_stamps_come_back(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    assert index.open() == {}
    for digest, stamp in STAMPS.items():
        index.add(digest, stamp)
    first, second, *_ = STAMPS
    index.remove([first])
    changed = Stamp(1 << 40, 0, (1 << 64) - 1)
    index.add(second, changed)
    expected = STAMPS | {second: changed}
    del expected[first]
    assert reopened(index) == expected
    index.close()


def test_several_threads_write_at_once(tmp_path: Path) -> None:
    index, start = Index(tmp_path / "index.sqlite"), threading.Barrier(4)
    index.open()

    def add(part: int) -> None:
        start.wait()
        for digest, stamp in list(STAMPS.items())[part::4]:
            index.add(digest, stamp)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    assert reopened(index) == STAMPS
    index.close()


def test_what_comes_after_the_end_is_dropped(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    index.open()
    index.close()
    for digest, stamp in STAMPS.items():
        index.add(digest, stamp)
    index.remove(STAMPS)
    assert index.open() == {}
    index.close()


@given(st.dictionaries(st.integers(0, 9000), st.integers(0, 255), min_size=1, max_size=20), st.booleans())
def test_any_damage_is_read_or_rebuilt(damage: dict[int, int], truncate: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.sqlite"
        index = Index(path)
        index.open()
        for digest, stamp in list(STAMPS.items())[:30]:
            index.add(digest, stamp)
        index.close()
        content = bytearray(path.read_bytes())
        for place, value in damage.items():
            content[place % len(content)] = value
        path.write_bytes(content[: max(damage)] if truncate else content)
        index.open()
        index.close()


def test_a_place_where_no_file_can_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").mkdir()
    with pytest.raises(StoreError, match=r"cannot open .*index\.sqlite"):
        Index(tmp_path / "index.sqlite").open()
