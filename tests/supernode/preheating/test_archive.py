"""What outlives a restart, on the disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from supernode.preheating.archive import write_whole


def test_writers_of_one_file_take_turns(tmp_path: Path) -> None:
    """A thread goes on when the task that waited for it was cancelled, and another one may write then."""
    path = tmp_path / "job.json"
    contents = [bytes([number]) * 1000 for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_whole(path, content), contents))
    assert path.read_bytes() in contents
    assert [each.name for each in tmp_path.iterdir()] == ["job.json"]
