"""What is to be written: files as they are, and as they shall be."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import PurePosixPath

from shoal.cli.finding import Finding


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file's text; None where there is no file."""

    path: PurePosixPath
    """On the host, whatever its root is mounted as."""
    old: str | None
    """As it is."""
    new: str | None
    """As it shall be."""
    before: str | None
    """As it is without what is Shoal's: what a copy is kept of."""
    owns_folder: bool = False
    """Whether its folder is there for its sake alone, so that an empty one goes with it."""
    is_unmarked: bool = False
    """Whether nothing in the text tells what of it is Shoal's."""

    @property
    def changes(self) -> bool:
        return self.old != self.new

    def diff(self) -> str:
        """As `diff -u` prints it."""
        names = [str(self.path) if text is not None else "/dev/null" for text in (self.old, self.new)]
        texts = [(text or "").splitlines(keepends=True) for text in (self.old, self.new)]
        lines = difflib.unified_diff(texts[0], texts[1], names[0], names[1])
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


@dataclass(frozen=True, slots=True)
class Plan:
    """All files that a runtime's mirror configuration stands in, those included that are as they should be."""

    files: tuple[FileChange, ...]
    findings: tuple[Finding, ...] = ()
    """What to know of it; one at level `error` says why it cannot be written."""
    then: tuple[str, ...] = ()
    """What to do so that it counts, in whole sentences."""

    @property
    def changes(self) -> tuple[FileChange, ...]:
        return tuple(each for each in self.files if each.changes)

    @property
    def is_refused(self) -> bool:
        """Whether nothing of it may be written."""
        return any(each.level == "error" for each in self.findings)
