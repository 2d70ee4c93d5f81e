"""What is remembered of verified files, and that damage to it costs nothing but that memory."""

from __future__ import annotations

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.disk import Stamp, StoreError
from peer.index import Contents, Entry, Index, names_in
from peer.references import Names
from shoal.digest import Digest

_MANIFESTS_PAGE = 2 * 4096
"""Where the page of the second table begins in a new file."""
ENTRIES = {
    Digest.of(bytes([number])): Entry(Stamp(number, 1_700_000_000_000_000_000 + number, 1), number + 0.5, 2.0)
    for number in range(100)
}


def reopened(index: Index) -> Contents:
    index.close()
    return index.open()


def test_entries_come_back(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    assert index.open() == Contents({}, {})
    for digest, entry in ENTRIES.items():
        index.add(digest, entry, None)
    first, second, *_ = ENTRIES
    index.remove([first])
    changed = Entry(Stamp(1 << 40, 0, (1 << 64) - 1), 3.0, 4.0)
    index.add(second, changed, None)
    expected = ENTRIES | {second: changed}
    del expected[first]
    assert reopened(index) == Contents({str(digest): entry for digest, entry in expected.items()}, {})
    index.close()


def test_what_manifests_name_and_when_blobs_were_used_comes_back(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    index.open()
    first, second, third, *_ = ENTRIES
    names = {first: Names((second, Digest.of(b"not here"))), second: Names((), first), third: Names(())}
    for digest, named in names.items():
        index.add(digest, ENTRIES[digest], named)
    used = ENTRIES[first]._replace(used=7.0, checked=8.0)
    index.note({first: used, Digest.of(b"never added"): used})
    index.remove([third])
    contents = reopened(index)
    assert contents.blobs == {first: used, second: ENTRIES[second]}
    found = {digest: names_in(text, {second: second}) for digest, text in contents.manifests.items()}
    assert found == {first: names[first], second: names[second]}
    assert found[first].named[0] is second
    index.close()


def test_several_threads_write_at_once(tmp_path: Path) -> None:
    index, start = Index(tmp_path / "index.sqlite"), threading.Barrier(4)
    index.open()

    def add(part: int) -> None:
        start.wait()
        for digest, entry in list(ENTRIES.items())[part::4]:
            index.add(digest, entry, None)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    assert reopened(index) == Contents({str(digest): entry for digest, entry in ENTRIES.items()}, {})
    index.close()


def test_what_comes_after_the_end_is_dropped(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    index.open()
    index.close()
    for digest, entry in ENTRIES.items():
        index.add(digest, entry, None)
    index.remove(ENTRIES)
    assert index.open() == Contents({}, {})
    index.close()


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 9000), st.integers(0, 255), min_size=1, max_size=20), st.booleans())
def test_any_damage_is_read_or_rebuilt(damage: dict[int, int], truncate: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.sqlite"
        index = Index(path)
        index.open()
        for digest, entry in list(ENTRIES.items())[:30]:
            index.add(digest, entry, None)
        index.close()
        content = bytearray(path.read_bytes())
        for place, value in damage.items():
            content[place % len(content)] = value
        path.write_bytes(content[: max(damage)] if truncate else content)
        index.open()
        index.close()


def test_damage_that_only_a_write_shows_is_gone_with_the_next_start(tmp_path: Path) -> None:
    index, names = Index(tmp_path / "index.sqlite"), Names(tuple(ENTRIES)[:2])
    first, second, *_ = ENTRIES
    index.open()
    index.add(first, ENTRIES[first], names)
    index.close()
    content = bytearray((tmp_path / "index.sqlite").read_bytes())
    content[_MANIFESTS_PAGE + 5 : _MANIFESTS_PAGE + 7] = (4072).to_bytes(2, "big")  # where its cells begin
    (tmp_path / "index.sqlite").write_bytes(content)
    index.open()
    index.add(second, ENTRIES[second], Names((first,)))
    assert reopened(index) == Contents({}, {})
    index.add(second, ENTRIES[second], Names((first,)))
    assert list(reopened(index).manifests) == [second]
    index.close()


def test_a_place_where_no_file_can_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").mkdir()
    with pytest.raises(StoreError, match=r"cannot open .*index\.sqlite"):
        Index(tmp_path / "index.sqlite").open()
