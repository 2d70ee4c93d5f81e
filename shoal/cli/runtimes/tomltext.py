"""Changes of TOML text that leave every other byte as it is.

The standard library reads TOML and does not write it; libraries that do both make invalid documents of valid ones that
have their tables in an unusual order. So lines are put in at places that are sure, and what came of it is read and
compared with what it has to be.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shoal.cli.runtimes.edits import NotEditable, appended, block, lines_of
from shoal.toml import KeyPath, dotted

Table = dict[str, Any]

_PART = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)"""
_ASSIGNMENT = re.compile(rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*=")


@dataclass(frozen=True, slots=True)
class _Statement:
    """Lines `start` to `end` (exclusive): a header, an assignment, a comment or an empty line."""

    start: int
    end: int
    header: KeyPath | None = None
    key: KeyPath | None = None
    """The whole path of what is assigned."""
    is_comment: bool = False


def parsed(text: str) -> Table:
    """What the text says; raises `NotEditable` where it is no TOML."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotEditable(f"it is no TOML: {error}") from None


def at(table: Table, path: KeyPath) -> Any:
    """The value there; None where there is none."""
    value: Any = table
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return value


def literal(value: str | bool | Sequence[str] | Sequence[tuple[str, str]]) -> str:
    """A value as TOML has it, which writes these as JSON does."""
    return json.dumps(value, ensure_ascii=False)


def with_value(text: str, path: KeyPath, value: str | bool | Sequence[str]) -> str:
    """The text with one key set, in a block of Shoal's. Raises `NotEditable`."""
    before = parsed(text)
    if at(before, path) == value:
        return text
    *table, key = path
    line = f"{dotted((key,))} = {literal(value)}"
    lines = lines_of(text)
    statements = _statements(lines)
    assigned = next((each for each in statements if each.key == path), None)
    header = next((each for each in statements if each.header == tuple(table)), None)
    if assigned is not None:
        replaced = "".join(lines[assigned.start : assigned.end])
        own = next((each.header for each in reversed(statements) if each.header and each.start < assigned.start), ())
        inner = f"{dotted(path[len(own) :])} = {literal(value)}"
        changed = _spliced(lines, assigned.start, assigned.end, block([inner], replaced))
    elif header is not None:
        changed = _spliced(lines, header.end, header.end, block([line]))
    else:
        changed = appended(text, block([f"[{dotted(tuple(table))}]", line]))
    return _checked(changed, _set(before, path, value))


def with_first_table(text: str, path: KeyPath, values: dict[str, Sequence[str]]) -> str:
    """The text with a table before all others that lie in the same one, in a block of Shoal's. Raises `NotEditable`."""
    before = parsed(text)
    added = block([f"[{dotted(path)}]", *(f"{dotted((key,))} = {literal(value)}" for key, value in values.items())])
    lines = lines_of(text)
    statements = _statements(lines)
    siblings = [place for place, each in enumerate(statements) if each.header and each.header[:1] == path[:1]]
    if siblings:
        place = siblings[0]
        while place and statements[place - 1].is_comment:  # which tells of that table
            place -= 1
        changed = _spliced(lines, statements[place].start, statements[place].start, added)
    else:
        changed = appended(text, added)
    checked = _checked(changed, _set(before, path, {key: list(value) for key, value in values.items()}))
    if next(iter(at(parsed(checked), path[:-1]))) != path[-1]:
        raise NotEditable(f"{dotted(path[:-1])} is no table of its own")
    return checked


def _statements(lines: list[str]) -> list[_Statement]:
    found: list[_Statement] = []
    table: KeyPath = ()
    start = 0
    while start < len(lines):
        end = _end(lines, start)
        words = lines[start].strip()
        if words.startswith("["):
            table = _path(tomllib.loads("".join(lines[start:end])))
            found.append(_Statement(start, end, header=table))
        elif assignment := _ASSIGNMENT.match(lines[start]):
            key = _path(tomllib.loads(f"{assignment[1]} = {{}}"))
            found.append(_Statement(start, end, key=(*table, *key)))
        else:
            found.append(_Statement(start, end, is_comment=words.startswith("#")))
        start = end
    return found


def _end(lines: list[str], start: int) -> int:
    """Behind the statement that begins there: where its lines are TOML by themselves."""
    for end in range(start + 1, len(lines) + 1):
        try:
            tomllib.loads("".join(lines[start:end]))
        except ValueError:
            continue
        return end
    raise NotEditable(f"the statement in line {start + 1} has no end")


def _path(table: Any) -> KeyPath:
    """The keys down to the innermost table."""
    path: list[str] = []
    while table:
        if isinstance(table, list):
            table = table[-1]
            continue
        ((key, table),) = table.items()
        path.append(key)
    return tuple(path)


def _spliced(lines: list[str], start: int, end: int, addition: str) -> str:
    return appended("".join(lines[:start]), addition) + "".join(lines[end:])


def _set(table: Table, path: KeyPath, value: object) -> Table:
    changed = copy.deepcopy(table)
    inner = changed
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
        if not isinstance(inner, dict):
            raise NotEditable(f"{dotted(path[:-1])} is no table")
    inner[path[-1]] = list(value) if isinstance(value, tuple) else value
    return changed


def _checked(text: str, wanted: Table) -> str:
    try:
        found = tomllib.loads(text)
    except ValueError:
        found = None
    if found != wanted:
        raise NotEditable("its tables are written in a form that lines cannot be added to")
    return text
