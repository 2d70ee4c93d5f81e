"""`shoal completion`."""

from __future__ import annotations

import click

from shoal.cli.frame import Command

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_SHOAL_COMPLETE"
"""By which a shell asks the program what may stand at a place."""


@click.command(
    cls=Command,
    examples=[
        "shoal completion bash > /etc/bash_completion.d/shoal",
        'shoal completion zsh > "${fpath[1]}/_shoal"',
        "shoal completion fish > ~/.config/fish/completions/shoal.fish",
    ],
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what completes commands and flags in a shell."""
    click.echo(script(shell), nl=False)


def script(shell: str) -> str:
    """The script for one of `SHELLS`."""
    from click.shell_completion import ShellComplete, get_completion_class

    from shoal.cli.commands import main

    kind = get_completion_class(shell)
    assert kind is not None
    # not the class's own `source`, which runs the shell to look at its version: it may be for another machine
    text = ShellComplete.source(kind(main, {}, "shoal", _VARIABLE)).lstrip()
    return text.replace('string split ","', 'string split --max 1 ","')  # fish's, which cuts help at commas
