"""What each container runtime can be asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

from shoal.cli.finding import Finding
from shoal.cli.runtimes.backups import former, was_written
from shoal.cli.runtimes.edits import NotEditable, in_file
from shoal.cli.runtimes.host import Host
from shoal.cli.runtimes.mirror import Mirror
from shoal.cli.runtimes.plan import FileChange, Plan


@dataclass(frozen=True, slots=True)
class Document:
    """A file in which something of Shoal's belongs, or still is."""

    path: PurePosixPath
    take_out: Callable[[str], str]
    """The text without what is Shoal's; raises `NotEditable`."""
    merge: Callable[[str], str] | None = None
    """The text with what is Shoal's, from one without; raises `NotEditable`. None: nothing of Shoal's belongs there."""
    code: str = ""
    """Of the finding where it does not hold what it should."""
    lack: str = ""
    """What is the case then, in a whole sentence."""
    owns_folder: bool = False
    is_unmarked: bool = False
    """See `FileChange` for both."""

    def change(self, old: str | None, new: str | None, before: str | None) -> FileChange:
        """The file from one text to another."""
        return FileChange(self.path, old, new, before, self.owns_folder, self.is_unmarked)


class Runtime(ABC):
    """A runtime whose configuration names mirrors.

    All methods raise `FileUnusable` for files that nobody can read; `limits`, `documents` and `state`, which the others
    ask, raise `NotEditable` for files that are not what they should be.
    """

    name: ClassVar[str]
    """As `shoal config NAME` has it."""
    then: ClassVar[tuple[str, ...]]
    """What to do so that a change of its files counts, in whole sentences."""

    @abstractmethod
    def is_present(self, host: Host) -> bool:
        """Whether the host has this runtime, and somebody pulls with it."""

    @abstractmethod
    def documents(self, host: Host, mirror: Mirror) -> Sequence[Document]:
        """The files in question."""

    def limits(self, host: Host, mirror: Mirror) -> list[Finding]:
        """What this runtime cannot be told of this mirror; what is at level `error` forbids to write."""
        return []

    def state(self, host: Host, mirror: Mirror) -> list[Finding]:
        """What besides its files says whether the mirror is used: other settings, and what runs."""
        return []

    def plan(self, host: Host, mirror: Mirror) -> Plan:
        """What its files have to hold, so that pulls go through the mirror."""
        findings = self._presence(host)
        files: list[FileChange] = []
        try:
            findings += self.limits(host, mirror)
            files += (_merged(host, document) for document in self.documents(host, mirror))
        except NotEditable as error:
            findings.append(self._not_editable(error))
        return Plan(tuple(files), tuple(findings), self.then)

    def undo(self, host: Host, mirror: Mirror) -> Plan:
        """How its files were before: those that nobody has changed since, else as they are without what is Shoal's."""
        files: list[FileChange] = []
        findings: list[Finding] = []
        try:
            for document in self.documents(host, mirror):
                old, before = host.text(document.path), _before(host, document)
                if old is not None:
                    files.append(document.change(old, before, before))
        except NotEditable as error:
            findings.append(self._not_editable(error))
        return Plan(tuple(files), tuple(findings), self.then)

    def check(self, host: Host, mirror: Mirror) -> list[Finding]:
        """Whether pulls go through the mirror as its files are, and as what runs has read them."""
        findings = self._presence(host)
        try:
            findings += self.limits(host, mirror)
            findings += filter(None, (self._lack(host, document) for document in self.documents(host, mirror)))
            findings += self.state(host, mirror)
        except NotEditable as error:
            findings.append(self._not_editable(error))
        if not any(each.level == "error" for each in findings):
            names = ", ".join(each.name for each in mirror.upstreams) or "every registry"
            findings.insert(0, Finding(f"{self.name}-configured", "ok", f"{self.name} asks {mirror.url} for {names}."))
        return findings

    def _presence(self, host: Host) -> list[Finding]:
        """That there is no such runtime."""
        if self.is_present(host):
            return []
        text = f"Nothing on this host pulls by {self.name}, as far as can be seen."
        return [Finding(f"{self.name}-not-found", "warning", text, "Configure the runtime that is used here.")]

    def _lack(self, host: Host, document: Document) -> Finding | None:
        """What is wrong with one file; raises `NotEditable`."""
        change = _merged(host, document)
        if not change.changes:
            return None
        write = f"Run `shoal config {self.name} --write`."
        if document.merge is None or _holds(document, change.old):
            text = f"{change.path} differs from what would be written now."
            return Finding(f"{self.name}-outdated", "warning", text, write)
        return Finding(document.code, "error", document.lack, write)

    def _not_editable(self, error: NotEditable) -> Finding:
        text = f"A file cannot be read or changed safely: {error}."
        return Finding(f"{self.name}-not-editable", "error", text, "Repair it, or put Shoal's lines in by hand.")


def _before(host: Host, document: Document) -> str | None:
    """What a file held without Shoal, as far as anything tells; None where there is or was no file."""
    old = host.text(document.path)
    if old is None:
        return None
    known = former(host, document.path)
    if known is not None:
        return known.text
    if document.is_unmarked and not was_written(host, document.path):
        return old
    with in_file(document.path):
        rest = document.take_out(old)
    return None if rest != old and not rest.strip() else rest


def _merged(host: Host, document: Document) -> FileChange:
    old = host.text(document.path)
    is_known = not document.is_unmarked or former(host, document.path) is not None
    before = _before(host, document) if is_known else old
    with in_file(document.path):
        new = document.merge(before or "") if document.merge else before
    return document.change(old, new, before)


def _holds(document: Document, text: str | None) -> bool:
    """Whether a text has what is Shoal's, in whatever form."""
    try:
        return text is not None and document.merge is not None and document.merge(text) == text
    except NotEditable:
        return False
