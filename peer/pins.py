"""What is to stay in the store whatever happens: digests, each with the names under which people pinned it.

One small JSON file of its own, since nothing else on the disk tells it: the index may be lost, this may not.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec
import structlog

from peer.disk import failing_to, open_for_reading, write_durably
from shoal.digest import Digest, InvalidDigest

log = structlog.get_logger()

PINS = "pins.json"
"""The file's name in the store's folder."""
_DAMAGED_SUFFIX = ".damaged"


class Pins:
    """Safe to use from several threads. What was changed is on the disk when the call returns."""

    def __init__(self, root: Path, temporary: Path) -> None:
        """`temporary`: a folder on the same file system."""
        self._path = root / PINS
        self._temporary = temporary
        self._names: dict[Digest, tuple[str, ...]] = {}
        self._guard = threading.Lock()

    def load(self) -> None:
        """Read the file; one that cannot be understood is put aside, with an error in the log. Raises `OSError`."""
        try:
            with open(self._path, "rb", opener=lambda _, __: open_for_reading(self._path)) as file:
                content = file.read()
        except FileNotFoundError:
            self._names = {}
            return
        try:
            raw = msgspec.json.decode(content, type=dict[str, tuple[str, ...]])
            self._names = {Digest(digest): names for digest, names in raw.items()}
        except (msgspec.DecodeError, UnicodeDecodeError, InvalidDigest) as error:
            aside = self._path.with_name(PINS + _DAMAGED_SUFFIX)
            log.error("pins.damaged", path=str(self._path), aside=str(aside), error=str(error))
            self._path.rename(aside)
            self._names = {}

    @property
    def names(self) -> Mapping[Digest, tuple[str, ...]]:
        """All pins of this moment."""
        return self._names

    def add(self, digest: Digest, name: str) -> None:
        """Pin a blob under a name; raises `StoreError`, and then it is not pinned."""
        with self._guard:
            names = self._names.get(digest, ())
            if name not in names:
                self._write({**self._names, digest: (*names, name)})

    def remove(self, wanted: str) -> list[Digest]:
        """Undo the pins under this name, or of this digest; returns the digests that had one. Raises `StoreError`."""
        with self._guard:
            found = [digest for digest, names in self._names.items() if digest == wanted or wanted in names]
            left = dict(self._names)
            for digest in found:
                names = tuple(name for name in left.pop(digest) if name != wanted and digest != wanted)
                if names:
                    left[digest] = names
            if found:
                self._write(left)
            return found

    def _write(self, names: dict[Digest, tuple[str, ...]]) -> None:
        with failing_to(f"write {self._path}"):
            write_durably(self._path, msgspec.json.format(msgspec.json.encode(names)), by_way_of=self._temporary)
        self._names = names
