"""All commands, as their table has them, each with the words that call it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import click

from shoal.cli import main
from shoal.cli.frame import Command, Group, Program, option_sections, summary


@dataclass(frozen=True, slots=True)
class Described:
    """One command or group."""

    command: Command | Group
    context: click.Context

    @property
    def path(self) -> str:
        """`shoal config ca`."""
        return self.context.command_path

    @property
    def summary(self) -> str:
        """One sentence."""
        return summary(self.command)

    @property
    def paragraphs(self) -> list[str]:
        """What the help says below the summary."""
        _, *others = (self.command.help or "").split("\n\n")
        return [" ".join(paragraph.split()) for paragraph in others]

    @property
    def usage(self) -> str:
        """`shoal pull [OPTIONS] IMAGE`."""
        return " ".join([self.path, *self.command.collect_usage_pieces(self.context)])

    @property
    def options(self) -> dict[str, list[tuple[str, str]]]:
        """Below their headings: how each is written, and what it does."""
        sections = option_sections(self.command, self.context)
        return {
            heading: [record for option in options if (record := option.get_help_record(self.context)) is not None]
            for heading, options in sections.items()
        }

    @property
    def sections(self) -> dict[str, list[Described]]:
        """A group's commands below their headings; a command has none."""
        if not isinstance(self.command, Group):
            return {}
        return {heading: [self._inner(name) for name in names] for heading, names in self.command.sections.items()}

    @property
    def is_program(self) -> bool:
        """Whether it is `shoal` itself."""
        return isinstance(self.command, Program)

    def _inner(self, name: str) -> Described:
        assert isinstance(self.command, Group)
        command = self.command.commands[name]
        assert isinstance(command, Command | Group), f"{self.path} {name} shows no examples"
        return Described(command, click.Context(command, self.context, name))


def program() -> Described:
    """`shoal` itself."""
    return Described(main, click.Context(main, info_name="shoal"))


def everything(described: Described) -> Iterator[Described]:
    """A command, and all below it."""
    yield described
    for commands in described.sections.values():
        for command in commands:
            yield from everything(command)
