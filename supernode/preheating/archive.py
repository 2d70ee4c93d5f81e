"""Jobs on the disk: one file for each, so that a restart neither forgets one nor begins it again."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import msgspec
import structlog

from supernode.preheating.jobs import JobRecord

log = structlog.get_logger()

FOLDER = "preheats"
"""In the supernode's folder of what outlives a restart."""
_turn = threading.Lock()
"""Of who writes: a thread goes on when the task that waited for it was cancelled."""


class Archive:
    """The folder of jobs. What cannot be written is said once in the log: jobs go on without it."""

    def __init__(self, state: Path) -> None:
        self._folder = state / FOLDER
        self._is_failing = False

    def read(self) -> list[JobRecord]:
        """All jobs, the oldest first. What cannot be understood stays where it is."""
        records = []
        for path in self._folder.glob("*.json"):
            try:
                records.append(msgspec.json.decode(path.read_bytes(), type=JobRecord))
            except (OSError, msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
                log.error("preheat.unreadable", file=str(path), error=str(error))
        return sorted(records, key=lambda record: record.created_at)

    def write(self, job_id: str, content: bytes) -> None:
        """Write a job down, in place of what was written of it before; to be called in a thread."""
        path = self._path(job_id)
        try:
            write_whole(path, content)
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                log.warning("preheat.not_written", file=str(path), error=str(error))
            self._is_failing = True

    def remove(self, job_id: str) -> None:
        """Forget a job."""
        try:
            self._path(job_id).unlink(missing_ok=True)
        except OSError as error:
            log.warning("preheat.not_removed", file=str(self._path(job_id)), error=str(error))

    def _path(self, job_id: str) -> Path:
        return self._folder / f"{job_id}.json"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, in place of what was there, or not at all. Raises `OSError`."""
    new = path.with_suffix(".new")
    with _turn:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
