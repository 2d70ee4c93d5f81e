"""How a command ends: one exit code for each kind of end, the same for all commands."""

from __future__ import annotations

from enum import IntEnum

import click


class ExitCode(IntEnum):
    """What the shell is told."""

    DONE = 0
    FAILED = 1
    UNUSABLE = 2
    NO_DAEMON = 3
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """For the help, the man pages and the documents."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.DONE: "It is done, and what was looked at is as it should be.",
    ExitCode.FAILED: "It could not be done, or what was looked at is not as it should be.",
    ExitCode.UNUSABLE: "The command line or the configuration cannot be used. Nothing was done.",
    ExitCode.NO_DAEMON: "No daemon answers where the configuration says that it is.",
    ExitCode.INTERRUPTED: "Ctrl-C or SIGTERM ended it. (A daemon that is told to stop: 0.)",
}


class Unusable(click.ClickException):
    """What was said cannot be meant, whatever the state of things."""

    exit_code = ExitCode.UNUSABLE


class BadConfiguration(Unusable):
    """The configuration stops the start."""


class NoDaemon(click.ClickException):
    """Nobody answers who was to carry out an order."""

    exit_code = ExitCode.NO_DAEMON
