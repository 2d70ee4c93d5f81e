"""Man pages and completions, made from the commands themselves."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click_man.core
from click.shell_completion import get_completion_class

from shoal.cli import main

_COMPLETIONS = {
    "bash": "share/bash-completion/completions/shoal",
    "zsh": "share/zsh/site-functions/_shoal",
    "fish": "share/fish/vendor_completions.d/shoal.fish",
}
"""Where shells look below `/usr` and `/usr/local`."""


def write_manual(folder: Path, version: str, epoch: int) -> None:
    """Write all of it below `folder`; `epoch`, in seconds, is the day that the pages bear."""
    pages = folder / "share/man/man1"
    pages.mkdir(parents=True)
    day = datetime.fromtimestamp(epoch, UTC).date().isoformat()
    click_man.core.write_man_pages("shoal", main, version=version, target_dir=str(pages), date=day)
    for shell, place in _COMPLETIONS.items():
        complete = get_completion_class(shell)
        assert complete is not None
        file = folder / place
        file.parent.mkdir(parents=True)
        file.write_text(complete(main, {}, "shoal", "_SHOAL_COMPLETE").source())
