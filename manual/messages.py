"""The messages of docs/protocols.md: kinds, fields and what each is for."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec

from manual import docstrings
from manual.marks import escaped
from shoal.fields import bare

_PLAIN = {bytes: "bytes", str: "text", int: "number", float: "number", bool: "yes or no", types.NoneType: "nothing"}


def page_part(union: Any) -> str:
    """The messages of one direction, and below them what these hold."""
    kinds: tuple[type[msgspec.Struct], ...] = get_args(union)
    parts = list(dict.fromkeys(part for kind in kinds for part in _parts(kind)))
    lines = ["| message | fields | meaning |", "| --- | --- | --- |", *map(_row, kinds)]
    if parts:
        lines += ["", "| part | fields | meaning |", "| --- | --- | --- |", *map(_row, parts)]
    return "\n".join(lines)


def _row(kind: type[msgspec.Struct]) -> str:
    fields = [_field(kind, field) for field in msgspec.structs.fields(kind)]
    return f"| `{kind.__name__}` | {'<br>'.join(fields)} | {escaped(docstrings.of_class(kind))} |"


def _field(kind: type[msgspec.Struct], field: msgspec.structs.FieldInfo) -> str:
    meaning = docstrings.of_field(kind, field.name)
    return f"`{field.encode_name}`: {_sort(field.type)}" + (f". {escaped(meaning)}" if meaning else "")


def _sort(kind: Any) -> str:
    plain = bare(kind)
    origin, inner = get_origin(plain), get_args(plain)
    if origin is list:
        return f"list of {_sort(inner[0])}"
    if origin is dict:
        return f"{_sort(inner[0])} to {_sort(inner[1])}"
    if inner:
        return " or ".join(map(_sort, inner))
    return _PLAIN.get(plain) or f"`{plain.__name__}`"


def _parts(kind: Any) -> Iterator[type[msgspec.Struct]]:
    """The structures that stand in a message's fields, each with those inside of it."""
    for field in msgspec.structs.fields(kind):
        for part in _structs(field.type):
            yield part
            yield from _parts(part)


def _structs(kind: Any) -> Iterator[type[msgspec.Struct]]:
    plain = bare(kind)
    if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
        yield plain
    for inner in get_args(plain):
        yield from _structs(inner)
