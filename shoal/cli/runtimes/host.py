"""The machine whose files are read: the running one, or one whose file system is mounted somewhere."""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath

_MAX_LINKS = 40
"""As many as the kernel follows."""
_PROGRAMS = ("usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin", "opt/bin")
_MAX_BYTES = 4 << 20
"""Far more than any configuration has; what is larger is none."""


class FileUnusable(Exception):
    """A file of the host that cannot be read or written as what it should be; the text names it and says why."""


class Host:
    """Files of a machine by their own paths. Links lead to where they would on that machine, never out of its root."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root.absolute()

    @property
    def is_running(self) -> bool:
        """Whether it is this very machine, so that programs and processes belong to these files."""
        return self._root == Path("/")

    def place(self, path: PurePosixPath) -> Path:
        """Where a file is, with all links followed; raises `FileUnusable` where they cannot be followed."""
        try:
            return self._followed(path)
        except OSError as error:
            raise FileUnusable(f"{path} cannot be looked for: {error.strerror or error}") from None

    def _followed(self, path: PurePosixPath) -> Path:
        left = list(reversed(path.parts[1:]))
        found: list[str] = []
        links = 0
        while left:
            part = left.pop()
            if part == "..":
                found = found[:-1]
                continue
            here = self._root.joinpath(*found, part)
            if not here.is_symlink():
                found.append(part)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise FileUnusable(f"{path}: its links lead in a circle")
            target = PurePosixPath(here.readlink())
            if target.is_absolute():
                found = []
            left += [each for each in reversed(target.parts) if each != "/"]
        return self._root.joinpath(*found)

    def text(self, path: PurePosixPath) -> str | None:
        """What a file holds; None where there is none. Raises `FileUnusable`."""
        place = self.place(path)
        try:
            state = place.stat()
            if not stat.S_ISREG(state.st_mode):
                raise FileUnusable(f"{path} is no regular file")
            if state.st_size > _MAX_BYTES:
                raise FileUnusable(f"{path} is too large for a configuration ({state.st_size} bytes)")
            return place.read_bytes().decode("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise FileUnusable(f"{path} cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError as error:
            raise FileUnusable(f"{path} is not UTF-8 (byte {error.start})") from None

    def exists(self, path: PurePosixPath) -> bool:
        """Whether there is a file or folder; raises `FileUnusable` where it cannot be seen."""
        place = self.place(path)
        try:
            return place.exists()
        except OSError as error:
            raise FileUnusable(f"{path} cannot be looked for: {error.strerror or error}") from None

    def names(self, folder: PurePosixPath) -> list[str]:
        """What is in a folder, in order; empty where there is none. Raises `FileUnusable`."""
        try:
            return sorted(each.name for each in self.place(folder).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise FileUnusable(f"{folder} cannot be read: {error.strerror or error}") from None

    def has_program(self, name: str) -> bool:
        """Whether a program is in one of the usual places."""
        return any(self.exists(PurePosixPath("/", folder, name)) for folder in _PROGRAMS)
