"""What was found, as people read it and as scripts do."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator

import click

from shoal.cli.doctor.examination import Part
from shoal.cli.finding import Finding, Level

_COLOURS: dict[Level, str] = {"ok": "green", "warning": "yellow", "error": "red"}
_INDENT = 11
_WIDEST = 110


def as_json(parts: Iterable[Part]) -> dict[str, object]:
    """All findings by part, and how many there are of each level."""
    parts = list(parts)
    return {
        **{level: _count(parts, level) for level in _COLOURS},
        "parts": [
            {
                "part": part.name,
                "findings": [
                    {"code": each.code, "level": each.level, "text": each.text, "remedy": each.remedy}
                    for each in part.findings
                ],
            }
            for part in parts
        ],
    }


def lines(parts: Iterable[Part]) -> Iterator[str]:
    """A heading for each part, its findings with what to do, and a last line that counts them."""
    parts = list(parts)
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    for part in parts:
        yield click.style(part.name, bold=True)
        for finding in part.findings:
            yield from _finding(finding, width)
        yield ""
    errors, warnings = _count(parts, "error"), _count(parts, "warning")
    if errors or warnings:
        counted = f"{_counted(errors, 'error')} and {_counted(warnings, 'warning')}"
        yield _wrapped(f"{counted}; docs/troubleshooting.md says more of each by its name in brackets.", width, "", "")
    else:
        yield "All is well."


def has_errors(parts: Iterable[Part]) -> bool:
    """Whether something is broken."""
    return _count(list(parts), "error") > 0


def _finding(finding: Finding, width: int) -> Iterator[str]:
    indent = " " * _INDENT
    code = "" if finding.level == "ok" else f" [{finding.code}]"
    text = _wrapped(finding.text + code, width, indent, indent)
    yield f"  {click.style(finding.level, fg=_COLOURS[finding.level])}{text[2 + len(finding.level) :]}"
    if finding.remedy and finding.level != "ok":
        yield _wrapped(finding.remedy, width, f"{indent}> ", f"{indent}  ")


def _wrapped(text: str, width: int, first: str, rest: str) -> str:
    """Lines of words that stay whole, as commands and addresses have to."""
    return textwrap.fill(
        _printable(text),
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _printable(text: str) -> str:
    """Without what would tell a terminal something: parts of it were said by others."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _count(parts: list[Part], level: Level) -> int:
    return sum(finding.level == level for part in parts for finding in part.findings)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
