"""A configuration as TOML text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from shoal.fields import unit_of
from shoal.redaction import MASK, USER_INFO

KeyPath = tuple[str, ...]
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SECRET = re.compile(r"(?:^|_)(?:password|secret|token)$")


def dump(settings: msgspec.Struct) -> str:
    """The configuration as TOML that `load` reads to the same values, but for secrets, which are masked."""
    return "\n".join(_tables(settings, ())).strip() + "\n"


def dotted(path: KeyPath) -> str:
    """A key as TOML writes it: `proxy.upstreams."docker.io".url`."""
    return ".".join(key if _BARE_KEY.fullmatch(key) else _quoted(key) for key in path)


def is_secret(key: str) -> bool:
    """Whether the value of a key of this name is never shown."""
    return _SECRET.search(key) is not None


def _tables(table: msgspec.Struct | dict[str, Any], path: KeyPath) -> Iterator[str]:
    if isinstance(table, msgspec.Struct):
        entries = [(f.encode_name, getattr(table, f.name), unit_of(f.type)) for f in msgspec.structs.fields(table)]
    else:
        entries = [(key, value, None) for key, value in table.items()]
    values = [(key, value, unit) for key, value, unit in entries if not _holds_tables(value)]
    inner = [(key, value) for key, value, _ in entries if _holds_tables(value)]
    if path and (values or not inner):
        yield f"\n[{dotted(path)}]"
    for key, value, unit in values:
        if value and is_secret(key):
            yield f"{dotted((key,))} = {_literal(MASK)}"
        elif value is not None:
            yield f"{dotted((key,))} = {_literal(unit.write(value) if unit else value)}"
    for key, value in inner:
        if isinstance(value, list):
            for table in value:
                first, *rest = _tables(table, (*path, key))
                yield first.replace("[", "[[", 1) + "]"
                yield from rest
        else:
            yield from _tables(value, (*path, key))


def _holds_tables(value: object) -> bool:
    """Whether a value is written behind those of its own table, as a table or as a list of tables."""
    return isinstance(value, msgspec.Struct | dict) or (
        isinstance(value, list) and any(isinstance(item, msgspec.Struct) for item in value)
    )


def _literal(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case list() | tuple():
            return f"[{', '.join(_literal(item) for item in value)}]"
    return _quoted(USER_INFO.sub(f"{MASK}@", str(value)))


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's, which leaves out one control character that TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
