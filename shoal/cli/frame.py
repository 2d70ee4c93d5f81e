"""What all commands have in common: examples in their help, groups that import a command when it is needed, and how
what goes wrong is told."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import signal
import sys
from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

import click

from shoal.cli.exits import ExitCode
from shoal.cli.options import InvocationOption

Sections = Mapping[str, Mapping[str, str]]
"""Headings, and below each the names of commands with where they are: `module:attribute`."""


class _Explained(click.Command):
    """What help shows of a command besides what click does."""

    examples: Sequence[str]
    """Command lines as people type them, a remark behind `#`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options, and below them those that all commands have."""
        for heading, options in option_sections(self, ctx).items():
            with formatter.section(heading):
                formatter.write_dl([record for option in options if (record := option.get_help_record(ctx))])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples stand last, where the eye is when the help has been printed."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")
        super().format_epilog(ctx, formatter)


class Command(_Explained):
    """A command with examples."""

    def __init__(self, name: str | None, *, examples: Sequence[str], **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.examples = examples


class Group(_Explained, click.Group):
    """Commands in sections. A command's module is imported when the command is run, or its help is shown."""

    def __init__(self, name: str | None, *, sections: Sections, examples: Sequence[str], **kwargs: Any) -> None:
        places = {command: place for commands in sections.values() for command, place in commands.items()}
        super().__init__(name, commands=_Imported(places), **kwargs)
        self.sections = sections
        self.examples = examples

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the sections."""
        return list(self.commands)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The sections with one line for each of their commands, then the options."""
        width = max(map(len, self.commands))
        for heading, names in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), summary(self.commands[name])) for name in names])
        super().format_options(ctx, formatter)


class Program(Group):
    """The outermost group. What goes wrong becomes an exit code, and with `--json` an object on standard output."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """As `click.Command.main`."""
        given = list(sys.argv[1:] if args is None else args)
        if isinstance(sys.stdout, io.TextIOWrapper):  # names of nodes and images that the terminal's encoding lacks
            sys.stdout.reconfigure(errors="backslashreplace")
        if standalone_mode:
            signal.signal(signal.SIGTERM, _interrupt)
        run = functools.partial(super().main, given, prog_name, complete_var, standalone_mode=False, **extra)
        return _end(run, "--json" in given) if standalone_mode else run()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Also the exit codes of all commands."""
        super().format_epilog(ctx, formatter)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code.value), code.meaning) for code in ExitCode])


def _interrupt(_: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does: a preheat is cancelled, and who is process 1 of a container hears of it.
    Daemons have a handler of their own."""
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)


def _end(run: Callable[[], Any], as_json: bool) -> NoReturn:
    """Run what gives an exit code or nothing, and end the process.

    `as_json` comes from the plain arguments: what cannot be parsed sets nothing.
    """
    code: int = ExitCode.DONE
    error = ""
    try:
        code = run() or code
    except click.ClickException as known:
        code, error = known.exit_code, known.format_message()
        if not as_json:
            known.show()
    except click.Abort:
        code, error = ExitCode.INTERRUPTED, "it was interrupted"
    except OSError as fault:
        code, error = ExitCode.FAILED, f"a file, a device or what takes the output cannot be used: {fault}"
        click.ClickException(error).show()  # also with JSON, which may have no place to go to
    except Exception as fault:
        if as_json:
            _tell(f"a fault of Shoal itself: {type(fault).__name__}: {fault}", ExitCode.FAILED)
        raise
    if error and as_json:
        with contextlib.suppress(OSError):
            _tell(error, code)
    sys.exit(code)


def _tell(error: str, code: int) -> None:
    click.echo(json.dumps({"error": error, "exit_code": code}))


class _Imported(UserDict[str, Any]):
    """Commands by name, each imported from its place when it is looked up."""

    def __getitem__(self, name: str) -> click.Command:
        module, _, attribute = self.data[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


def option_sections(command: click.Command, ctx: click.Context) -> dict[str, list[click.Option]]:
    """The options below their headings: a command's own ones, and those that all have."""
    options = [each for each in command.get_params(ctx) if isinstance(each, click.Option) and not each.hidden]
    general = [each for each in options if _is_general(each)]
    own = [each for each in options if each not in general]
    return {"Options": own, "Options of all commands": general} if own else {"Options": general}


def _is_general(option: click.Option) -> bool:
    return "--help" in option.opts or (isinstance(option, InvocationOption) and option.general)


def summary(command: click.Command) -> str:
    """A command in one sentence: the first line of its help."""
    return (command.help or "").partition("\n")[0].strip()
