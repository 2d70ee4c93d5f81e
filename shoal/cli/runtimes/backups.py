"""What a file held before it was written: a copy beside it, whose name says what was written in its place.

`daemon.json.before-shoal-1f2e3d4c5b6a` is what `daemon.json` was before, for as long as the SHA-256 of `daemon.json`
begins with `1f2e3d4c5b6a`: once anybody else changes it, the copy is no longer what was there before that change.
An empty `daemon.json.before-shoal-absent-...` says that there was no file; only a file in whose text Shoal's part
cannot be told from that of others has one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath

from shoal.cli.runtimes.host import Host

_DIGITS = 12
_KIND = "before-shoal"


@dataclass(frozen=True, slots=True)
class Former:
    """What was in a file's place before Shoal."""

    kept: PurePosixPath
    """Where that is kept."""
    text: str | None
    """None: there was no file."""


def kept_in(path: PurePosixPath, written: str, was_there: bool) -> PurePosixPath:
    """Where the former content of a file is kept, or that there was none, when `written` is put in its place."""
    digest = hashlib.sha256(written.encode()).hexdigest()
    kind = _KIND if was_there else f"{_KIND}-absent"
    return path.with_name(f"{path.name}.{kind}-{digest[:_DIGITS]}")


def former(host: Host, path: PurePosixPath) -> Former | None:
    """What a file was before it was written by Shoal, where it is still what was written then; else None.

    Raises `FileUnusable`.
    """
    written = host.text(path)
    if written is None:
        return None
    copy, absent = (kept_in(path, written, was_there) for was_there in (True, False))
    text = host.text(copy)
    if text is not None:
        return Former(copy, text)
    return Former(absent, None) if host.exists(absent) else None


def was_written(host: Host, path: PurePosixPath) -> bool:
    """Whether a copy is left of what a file was before Shoal, whoever has changed it since; raises `FileUnusable`."""
    return any(name.startswith(f"{path.name}.{_KIND}") for name in host.names(path.parent))
