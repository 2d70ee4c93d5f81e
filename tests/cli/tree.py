"""All commands of `shoal`, as its own table has them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click
import pytest
import structlog

from shoal.cli import main
from shoal.cli.frame import Command, Group

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run in this process ended."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> dict[str, Any]:
        """Standard output, which is one JSON object."""
        told = json.loads(self.out)
        assert isinstance(told, dict)
        return told


def commands(group: click.Group = main, words: Words = ()) -> Iterator[tuple[Words, Command | Group]]:
    """Each command and group with the words that call it, without `shoal` itself."""
    for name, command in group.commands.items():
        assert isinstance(command, Command | Group)
        yield (*words, name), command
        if isinstance(command, Group):
            yield from commands(command, (*words, name))


ALL = dict(commands())
RUN = {words: command for words, command in ALL.items() if isinstance(command, Command)}
"""Those that do something: no groups."""
JSON = {words: command for words, command in RUN.items() if any("--json" in option.opts for option in command.params)}
DAEMONS = {("peer",), ("supernode",), ("up",)}
DIAGNOSES = {("doctor",)}
"""Those that tell of an unusable configuration as of all else that they find."""


def call(words: Words) -> list[str]:
    """The shortest command line: the words, and something for each argument that has to be there, or may be several."""
    arguments = [each for each in RUN[words].params if isinstance(each, click.Argument)]
    required = [each for each in arguments if each.required or each.nargs < 0]
    return [*words, *("docker.io/library/alpine:3.20" for _ in required)]


def run(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> Ended:
    """Run the program in this process, whose logs are then as they were before."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    try:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments), prog_name="shoal")
    finally:
        root.handlers, root.level = handlers, level
        structlog.reset_defaults()
    out, err = capsys.readouterr()
    return Ended(int(ended.value.code or 0), out, err)
