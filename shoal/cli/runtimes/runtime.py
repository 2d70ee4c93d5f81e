"""What each container runtime can be asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

from shoal.cli.finding import Finding
from shoal.cli.runtimes.backups import original
from shoal.cli.runtimes.host import Host
from shoal.cli.runtimes.mirror import Mirror
from shoal.cli.runtimes.plan import FileChange, Plan


class Runtime(ABC):
    """A runtime whose configuration names mirrors. All methods raise `FileUnusable` for files that nobody can read."""

    name: ClassVar[str]
    """As `shoal config NAME` has it."""
    then: ClassVar[tuple[str, ...]]
    """What to do so that a change of its files counts, in whole sentences."""

    @abstractmethod
    def is_present(self, host: Host) -> bool:
        """Whether the host has this runtime."""

    @abstractmethod
    def plan(self, host: Host, mirror: Mirror) -> Plan:
        """What its files have to hold, so that pulls go through the mirror."""

    @abstractmethod
    def check(self, host: Host, mirror: Mirror) -> list[Finding]:
        """Whether pulls go through the mirror as its files are, and as what runs has read them."""

    @abstractmethod
    def taken_out(self, host: Host, mirror: Mirror) -> list[FileChange]:
        """Each file that holds something of Shoal's, and how it is without that."""

    def undo(self, host: Host, mirror: Mirror) -> Plan:
        """How its files were before: those that nobody has changed since, else as they are without what is Shoal's."""
        files: list[FileChange] = []
        for each in self.taken_out(host, mirror):
            before = original(host, each.path)
            files.append(each if before is None else replace(each, new=before))
        return Plan(tuple(files), then=self.then)
