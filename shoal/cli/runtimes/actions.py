"""What can be done with a runtime's files, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from shoal.cli.finding import Finding
from shoal.cli.runtimes.host import Host
from shoal.cli.runtimes.mirror import Mirror
from shoal.cli.runtimes.plan import FileChange, Plan
from shoal.cli.runtimes.runtime import Runtime
from shoal.cli.runtimes.writing import Written, write

Action = Literal["print", "write", "check", "undo"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found and done."""

    runtime: str
    mirror: str
    action: Action
    planned: tuple[FileChange, ...] = ()
    """Of `print`: all files."""
    written: tuple[Written, ...] = ()
    findings: tuple[Finding, ...] = ()
    then: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether it was done, and what was looked at is as it should be."""
        return not any(each.level == "error" for each in self.findings)

    def as_json(self) -> str:
        """As one object."""
        fields: dict[str, Any] = {
            "runtime": self.runtime,
            "mirror": self.mirror,
            "action": self.action,
            "ok": self.is_good,
            "files": [
                *({"path": str(each.path), "content": each.new, "changes": each.changes} for each in self.planned),
                *(_written(each) for each in self.written),
            ],
            "findings": [asdict(each) for each in self.findings],
            "then": list(self.then),
        }
        return json.dumps(fields)

    def as_text(self) -> str:
        """As people read it, in whole lines."""
        parts = [_shown(each) for each in self.planned]
        parts += [_told(each, self.action) for each in self.written]
        if self.action in {"write", "undo"} and not self.written and self.is_good:
            parts.append("Nothing has to be changed.\n")
        parts += [f"{each}\n" for each in self.then]
        return "".join(parts)

    def remarks(self) -> str:
        """What was found, a line each."""
        return "".join(_line(each) for each in self.findings)


def run(runtime: Runtime, action: Action, host: Host, mirror: Mirror) -> Outcome:
    """Do it; raises `FileUnusable`."""
    if action == "check":
        return Outcome(runtime.name, mirror.url, action, findings=_ordered(runtime.check(host, mirror)))
    plan = runtime.undo(host, mirror) if action == "undo" else runtime.plan(host, mirror)
    if action == "print":
        return Outcome(runtime.name, mirror.url, action, planned=plan.files, findings=_ordered(plan.findings))
    written = () if plan.is_refused else tuple(write(host, plan))
    return Outcome(
        runtime.name, mirror.url, action, written=written, findings=_ordered(plan.findings), then=_then(plan, written)
    )


def _then(plan: Plan, written: Sequence[Written]) -> tuple[str, ...]:
    return plan.then if written else ()


def _ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The worst first."""
    levels = ("error", "warning", "ok")
    return tuple(sorted(findings, key=lambda each: levels.index(each.level)))


def _shown(change: FileChange) -> str:
    if change.new is None:
        return f"# {change.path} is removed.\n\n"
    text = change.new if change.new.endswith("\n") else f"{change.new}\n"
    return f"# {change.path}\n{text}\n"


def _told(written: Written, action: Action) -> str:
    change = written.change
    done = "removed" if change.new is None else "made" if change.old is None else "changed"
    back = " to what it was before Shoal" if action == "undo" and change.new is not None else ""
    kept = f" What it was is kept in {written.backup}." if written.backup else ""
    return f"{change.path} is {done}{back}.{kept}\n{change.diff()}\n"


def _line(finding: Finding) -> str:
    remedy = f" {finding.remedy}" if finding.remedy else ""
    return f"{finding.level}: {finding.text}{remedy} [{finding.code}]\n"


def _written(written: Written) -> dict[str, Any]:
    change = written.change
    return {
        "path": str(change.path),
        "content": change.new,
        "changes": True,
        "diff": change.diff(),
        "backup": str(written.backup) if written.backup else None,
    }
