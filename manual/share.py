"""What systems keep below `share`: man pages, and completions of shells."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from manual import man
from manual.commands import everything, program
from shoal.cli.completion import SHELLS, script

_PLACES = {
    "bash": "share/bash-completion/completions/shoal",
    "zsh": "share/zsh/site-functions/_shoal",
    "fish": "share/fish/vendor_completions.d/shoal.fish",
}
"""Where shells look below `/usr` and `/usr/local`."""


def write_manual(folder: Path, version: str, epoch: int) -> None:
    """Write `share/...` below `folder`; `epoch`, in seconds, is the day that the pages bear."""
    date = datetime.fromtimestamp(epoch, UTC).date().isoformat()
    for each in everything(program()):
        _write(folder / f"share/man/man1/{each.path.replace(' ', '-')}.1", man.page(each, version, date))
    for shell in SHELLS:
        _write(folder / _PLACES[shell], script(shell))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
