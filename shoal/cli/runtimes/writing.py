"""Plans become files: all of a plan's, each at once and with a copy of what it was, or none."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shoal.cli.runtimes.backups import former, kept_in
from shoal.cli.runtimes.host import FileUnusable, Host
from shoal.cli.runtimes.plan import FileChange, Plan

_FILE_MODE = 0o644
_FOLDER_MODE = 0o755


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was changed."""

    change: FileChange
    backup: PurePosixPath | None
    """Where its former content is; None where there was no file, or where it was put back."""


def write(host: Host, plan: Plan) -> list[Written]:
    """Make the files what the plan says; raises `FileUnusable`, before any file was changed where that can be known.

    Owner, mode and extended attributes stay; a link stays one, and what it leads to is changed.
    """
    with contextlib.ExitStack() as stack:
        staged = [stack.enter_context(_staged(host, change)) for change in plan.changes]
        return [_commit(host, change, new) for change, new in zip(plan.changes, staged, strict=True)]


@contextlib.contextmanager
def _staged(host: Host, change: FileChange) -> Iterator[Path | None]:
    """The new content beside the file that it becomes; None for a file that goes."""
    if host.text(change.path) != change.old:
        raise FileUnusable(f"{change.path} was changed by somebody else meanwhile; run the command again")
    if change.new is None:
        yield None
        return
    place = host.place(change.path)
    try:
        _make(place.parent)
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
    except OSError as error:
        raise FileUnusable(f"{change.path} cannot be written: {error.strerror or error}") from None
    staged = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(change.new.encode())
            file.flush()
            os.fsync(file.fileno())
        _take_over(staged, place)
        yield staged
    except OSError as error:
        raise FileUnusable(f"{change.path} cannot be written: {error.strerror or error}") from None
    finally:
        staged.unlink(missing_ok=True)


def _make(folder: Path) -> None:
    """A folder that everybody may read, whatever the process' own mask is: runtimes of users read it too."""
    for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        missing.mkdir()
        missing.chmod(_FOLDER_MODE)


def _take_over(made: Path, place: Path) -> None:
    """Owner, mode and attributes of the file that there is."""
    if not place.exists():
        made.chmod(_FILE_MODE)
        return
    shutil.copystat(place, made)
    os.utime(made)
    state = place.stat()
    os.chown(made, state.st_uid, state.st_gid)


def _commit(host: Host, change: FileChange, staged: Path | None) -> Written:
    """Put the new content in the old one's place, with a copy of what was there before Shoal beside it."""
    place = host.place(change.path)
    known = former(host, change.path)
    backup = _keep(host, change)
    if staged is None:
        place.unlink()
    else:
        staged.replace(place)
    if known is not None:
        host.place(known.kept).unlink()
    _sync(place.parent)
    if staged is None and change.owns_folder:
        with contextlib.suppress(OSError):  # somebody else's files are in it
            place.parent.rmdir()
    return Written(change, backup)


def _keep(host: Host, change: FileChange) -> PurePosixPath | None:
    """Keep what was there before Shoal; returns where, or None where there was nothing or that is put back."""
    if change.new is None or change.new == change.before:
        return None
    was_there = change.before is not None
    if not was_there and not change.is_unmarked:
        return None
    kept = kept_in(change.path, change.new, was_there)
    place = host.place(kept)
    place.touch(mode=0o600)
    place.write_bytes((change.before or "").encode())
    _take_over(place, host.place(change.path))
    return kept if was_there else None


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
