"""Man pages: click-man's, with the examples, the exit codes and what else a page ends with."""

from __future__ import annotations

from click_man.man import ManPage

from manual.commands import Described
from shoal.cli.exits import ExitCode

_CONFIGURATION = (
    "Every setting is a key of the configuration file that --config names, an environment variable "
    "(SHOAL_PEER__PORT for port of the table [peer]) that goes before it, and for some a flag that goes before both."
)


def page(described: Described, version: str, date: str) -> str:
    """A man page in roff; `date` as `2026-01-31`."""
    made = _Page(described, version, date)
    return str(made)


class _Page(ManPage):  # type: ignore[misc]  # click-man ships no types
    def __init__(self, described: Described, version: str, date: str) -> None:
        super().__init__(described.path)
        self._described = described
        self.version, self.date = version, date
        self.short_help = _roff(described.summary.rstrip("."))
        self.synopsis = " ".join(described.command.collect_usage_pieces(described.context))
        self.description = "\n\n".join(map(_roff, [described.summary, *described.paragraphs]))
        self.options = [(name, _roff(text)) for options in described.options.values() for name, text in options]

    def __str__(self) -> str:
        return "".join([super().__str__(), *(f"{line}\n" for line in self._added())])

    def _added(self) -> list[str]:
        lines = []
        for heading, commands in self._described.sections.items():
            lines += [f'.SH "{heading.upper()}"']
            for command in commands:
                lines += [".TP", f"\\fB{_roff(command.path.replace(' ', '-'))}\\fP(1)", _roff(command.summary)]
        lines += [".SH EXAMPLES", ".EX", *map(_roff, self._described.command.examples), ".EE"]
        lines += [".SH EXIT STATUS"]
        for code in ExitCode:
            lines += [".TP", str(code.value), _roff(code.meaning)]
        lines += [".SH CONFIGURATION", _roff(_CONFIGURATION)]
        if not self._described.is_program:
            lines += [".SH SEE ALSO", ".BR shoal (1)"]
        return lines


def _roff(text: str) -> str:
    """A line of text as roff reads it: a minus is one, and nothing is a request or an escape."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return f"\\&{escaped}" if escaped.startswith(".") else escaped
