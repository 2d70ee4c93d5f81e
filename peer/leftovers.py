"""The folder of partial blobs as a start finds it: whose files they are, which to go on with, which to remove."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import structlog

from peer.checkpoint import MAX_CHECKPOINT_SIZE, Checkpoint, InvalidCheckpoint
from peer.disk import TEMPORARY_SUFFIX, failing_to, open_for_reading, sync_folder
from peer.eviction import Kept
from peer.journal import Journal
from peer.partial import PartialFiles
from shoal.descriptor import BlobKey
from shoal.digest import Digest, InvalidDigest
from shoal.pieces import MAX_BLOB_SIZE, PieceLayout, set_of

log = structlog.get_logger()

_DATA_SUFFIX = ".data"
_CHECKPOINT_SUFFIX = ".state"
_JOURNAL_SUFFIX = ".pieces"
_BLOCK = 512
"""Bytes of a block in a file's status, whatever blocks the disk has."""
_UNKNOWN = -1
"""The time of change of data that is not known to be as it was left."""
_NAME = re.compile(r"(?P<digest>sha(?:256|512)-[0-9a-f]+)(?:-(?P<size>0|[1-9][0-9]{0,12}))?\.(?:data|state|pieces)")
"""Without a size it is a name that versions before 0.2 gave."""


class PartialFolder:
    """Knows the files in the folder `path`; `blob_path` tells where a finished blob goes."""

    def __init__(self, path: Path, blob_path: Callable[[Digest], Path]) -> None:
        self.path = path
        self._blob_path = blob_path

    def files(self, key: BlobKey) -> PartialFiles:
        """Where the files of a partial blob are, or will be."""
        stem = f"{file_name(key.digest)}-{key.size}"
        data, checkpoint, journal = (
            self.path / (stem + suffix) for suffix in (_DATA_SUFFIX, _CHECKPOINT_SUFFIX, _JOURNAL_SUFFIX)
        )
        return PartialFiles(data, checkpoint, journal, self._blob_path(key.digest))

    def begun(self) -> list[BlobKey]:
        """The blobs of which there is a checkpoint or a journal, valid or not; raises `StoreError`."""
        suffixes = {_CHECKPOINT_SUFFIX, _JOURNAL_SUFFIX}
        with failing_to(f"read {self.path}"):
            files = [file for file in self.path.iterdir() if file.suffix in suffixes and not file.is_dir()]
        return list(dict.fromkeys(key for file in files if (key := _key_of(file.name)) is not None))

    def orphans(self) -> list[BlobKey]:
        """The blobs with data of which nothing tells what it is; raises `StoreError`."""
        with failing_to(f"read {self.path}"):
            names = {file.name for file in self.path.iterdir()}
        keys = [_key_of(name) for name in names if name.endswith(_DATA_SUFFIX)]
        return [key for key in keys if key is not None and not self._is_told_of(key, names)]

    def resume(self, key: BlobKey) -> Checkpoint | None:
        """What is on the disk of a partial blob; None, with its files removed, where that is not to be trusted.

        Pieces that only the journal knows count among what is there as written at no known time: they are to be read
        back. Raises `StoreError`.
        """
        files = self.files(key)
        with failing_to(f"read {files.checkpoint}"):
            try:
                return _read_on(files, _read_checkpoint(files, key))
            except InvalidCheckpoint as error:
                log.warning("partial.discarded", digest=key.digest, reason=str(error))
                self.remove(key)
                return None

    def sizes(self) -> dict[BlobKey, Kept]:
        """Every partial blob with the bytes that it takes of the disk, and its last change; raises `StoreError`."""
        found: dict[BlobKey, Kept] = {}
        with failing_to(f"read {self.path}"), os.scandir(self.path) as entries:
            for entry in entries:
                key = _key_of(entry.name)
                if key is None:
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                before = found.get(key, Kept(0, 0.0))
                found[key] = Kept(before.size + status.st_blocks * _BLOCK, max(before.used, status.st_mtime))
        return found

    def allocated(self, key: BlobKey) -> int:
        """Bytes of the disk that the data of a partial blob takes; 0 where there is none."""
        try:
            return self.files(key).data.lstat().st_blocks * _BLOCK
        except OSError:
            return 0

    def remove(self, key: BlobKey) -> None:
        """Remove the files of a partial blob that nobody has open; raises `OSError`."""
        files = self.files(key)
        files.checkpoint.unlink(missing_ok=True)
        sync_folder(self.path)  # no later file of this name may meet it after a crash
        files.journal.unlink(missing_ok=True)
        files.data.unlink(missing_ok=True)

    def sweep(self, finished: Callable[[Digest], bool]) -> None:
        """Remove what a crash left: temporary files, data alone or what tells of it, all of a finished blob, old names.

        Folders, which nobody makes here, stay. Raises `OSError`.
        """
        names = {file.name for file in self.path.iterdir()}
        for name in names:
            key = _key_of(name)
            if key is None:
                needless = name.endswith(TEMPORARY_SUFFIX) or _NAME.fullmatch(name) is not None
            else:
                files = self.files(key)
                needless = finished(key.digest) or files.data.name not in names or not self._is_told_of(key, names)
            if needless:
                with contextlib.suppress(IsADirectoryError):
                    (self.path / name).unlink(missing_ok=True)

    def _is_told_of(self, key: BlobKey, names: set[str]) -> bool:
        files = self.files(key)
        return not names.isdisjoint({files.checkpoint.name, files.journal.name})


def file_name(digest: Digest) -> str:
    """A digest as the name of a file."""
    return f"{digest.algorithm}-{digest.hex}"


def _key_of(name: str) -> BlobKey | None:
    """The blob that a file belongs to; None for others."""
    match = _NAME.fullmatch(name)
    if match is None or match["size"] is None or int(match["size"]) > MAX_BLOB_SIZE:
        return None
    try:
        return BlobKey(Digest(match["digest"].replace("-", ":")), int(match["size"]))
    except InvalidDigest:
        return None


def _read_checkpoint(files: PartialFiles, key: BlobKey) -> Checkpoint | None:
    """None where there is none; raises `InvalidCheckpoint` where it, or the data, does not fit the blob."""
    start: Checkpoint | None = None
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(files.checkpoint.lstat().st_mode):
            raise InvalidCheckpoint("it is not a file")
        with open(files.checkpoint, "rb", opener=lambda _, __: open_for_reading(files.checkpoint)) as file:
            start = Checkpoint.decode(file.read(MAX_CHECKPOINT_SIZE + 1))
        if (start.digest, start.layout.size) != key:
            raise InvalidCheckpoint(f"it is of {start.digest} and {start.layout.size} bytes")
    try:
        found = files.data.lstat()
    except FileNotFoundError:
        if start is None:
            return None
        raise InvalidCheckpoint("its data is gone") from None
    if not stat.S_ISREG(found.st_mode) or found.st_size != key.size:
        raise InvalidCheckpoint(f"its data has {found.st_size} bytes instead of {key.size}")
    return start or Checkpoint(key.digest, PieceLayout.of(key.size), 0, {}, _UNKNOWN)


def _read_on(files: PartialFiles, start: Checkpoint | None) -> Checkpoint | None:
    """With the pieces that were written after the checkpoint; None where that is nothing at all."""
    if start is None:
        return None
    written = Journal(files.journal).read(start.layout.count)
    later = {index: digest for index, digest in written.items() if not start.have >> index & 1}
    if later:
        have = start.have | set_of(later)
        return Checkpoint(start.digest, start.layout, have, {**start.table, **later}, _UNKNOWN)
    return start if start.have else None
