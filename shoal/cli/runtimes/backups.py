"""What a file held before it was written: a copy beside it, whose name says what was written in its place.

`daemon.json.before-shoal-1f2e3d4c5b6a` is what `daemon.json` was before, for as long as the SHA-256 of `daemon.json`
begins with `1f2e3d4c5b6a`: as soon as anybody else changes it, the copy is no longer what was there before that change.
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath

from shoal.cli.runtimes.host import Host

_DIGITS = 12


def backup_of(path: PurePosixPath, written: str) -> PurePosixPath:
    """Where the former content of a file is kept in whose place `written` is put."""
    digest = hashlib.sha256(written.encode()).hexdigest()
    return path.with_name(f"{path.name}.before-shoal-{digest[:_DIGITS]}")


def original(host: Host, path: PurePosixPath) -> str | None:
    """What a file held before it was written by Shoal, where it is still what was written then; else None.

    Raises `FileUnusable`.
    """
    written = host.text(path)
    return None if written is None else host.text(backup_of(path, written))
