"""What a running daemon takes over of a configuration that was read again. No I/O."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from shoal.fields import is_live
from shoal.settings import SettingsError
from shoal.toml import KeyPath, dotted

RELOAD_PATH = "/v1/reload"
"""Where a daemon is told to read its configuration again, at its operations port."""

Reload = Callable[[], Awaitable[Mapping[str, object]]]
"""Reads a daemon's configuration again; gives the keys that have changed, as `Revision` does."""

S = TypeVar("S", bound=msgspec.Struct)


class ReloadOrder(msgspec.Struct):
    """An order to read the configuration again."""


@dataclass(frozen=True, slots=True)
class Revision(Generic[S]):
    """The configuration that holds from now on, and the keys that have changed, as TOML writes them."""

    settings: S
    applied: list[str]
    """What holds now as it was read."""
    needs_restart: list[str]
    """What holds on as it was before, until the daemon starts again."""


def revise(running: S, read: S) -> Revision[S]:
    """Lay what is live of the configuration that was read over the running one.

    A setting is live where its type says so (`shoal.fields.LIVE`), and so is all that lies in a table of such a type.
    Raises `SettingsError` where what is live does not go with what needs a restart.
    """
    applied: list[str] = []
    needs_restart: list[str] = []
    try:
        settings = _revised(running, read, (), applied, needs_restart)
    except ValueError as error:
        keys = ", ".join(needs_restart)
        raise SettingsError(f"{error}: this has to wait for a restart, as has what was changed of {keys}") from None
    return Revision(settings, applied, needs_restart)


def _revised(running: S, read: S, path: KeyPath, applied: list[str], needs_restart: list[str]) -> S:
    changes: dict[str, object] = {}
    for field in msgspec.structs.fields(running):
        before, after = getattr(running, field.name), getattr(read, field.name)
        key = (*path, field.encode_name)
        if before == after:
            continue
        if is_live(field.type):
            changes[field.name] = after
            applied += _differing(before, after, key)
        elif isinstance(before, msgspec.Struct) and isinstance(after, type(before)):
            changes[field.name] = _revised(before, after, key, applied, needs_restart)
        else:
            needs_restart += _differing(before, after, key)
    return msgspec.structs.replace(running, **changes)


def _differing(before: object, after: object, path: KeyPath) -> Iterator[str]:
    """The keys at and below `path` whose values differ."""
    if isinstance(before, msgspec.Struct) and isinstance(after, type(before)):
        for field in msgspec.structs.fields(before):
            if getattr(before, field.name) != getattr(after, field.name):
                yield from _differing(
                    getattr(before, field.name), getattr(after, field.name), (*path, field.encode_name)
                )
    elif isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                yield from _differing(before.get(key), after.get(key), (*path, key))
    else:
        yield dotted(path)
