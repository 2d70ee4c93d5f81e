"""Changes of YAML text that leave every other line as it is: of mappings in block style, by their lines."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from shoal.cli.runtimes.edits import NotEditable, appended, block, lines_of

_PLAIN = re.compile(r"[a-z][a-z0-9-]*(?:\.[a-z0-9-]+)+|mirrors|endpoint")
"""Keys that need no quotes."""


@dataclass(frozen=True, slots=True)
class _Edit:
    """Lines `start` to `end` (exclusive) become `lines`, with this indentation."""

    start: int
    end: int
    lines: list[str]
    indent: str


def parsed(text: str) -> dict[str, Any]:
    """What the text says, empty where it says nothing; raises `NotEditable` where it is no mapping."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise NotEditable(f"it is no YAML: {' '.join(str(error).split())}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise NotEditable("it holds no mapping")
    return value


def with_lists(text: str, table: str, key: str, lists: Mapping[str, Sequence[str]]) -> str:
    """The text with `table: {NAME: {key: [...]}}` for each of `lists` by its NAME, in blocks of Shoal's.

    Raises `NotEditable`.
    """
    before = parsed(text)
    wanted = _merged(before, table, key, lists)
    if wanted == before:
        return text
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None:
        changed = appended(text, block(_rendered({table: wanted[table]})))
    else:
        changed = _applied(text, _edits(node, table, key, before, wanted, lists))
    if parsed(changed) != wanted:
        raise NotEditable("its mappings are written in a form that lines cannot be added to")
    return changed


def _merged(before: dict[str, Any], table: str, key: str, lists: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    wanted = copy.deepcopy(before)
    if wanted.get(table) is None:
        wanted[table] = {}
    entries = wanted[table]
    for name, values in lists.items():
        if not isinstance(entries, dict) or not isinstance(entries.get(name, {}), dict | None):
            raise NotEditable(f"`{table}` is no mapping of mappings")
        entries[name] = {**(entries.get(name) or {}), key: list(values)}
    return wanted


def _edits(
    node: yaml.Node,
    table: str,
    key: str,
    before: Mapping[str, Any],
    wanted: Mapping[str, Any],
    lists: Mapping[str, Sequence[str]],
) -> list[_Edit]:
    """What makes `wanted` of `before`, whose text `node` is."""
    root = _block(node)
    if root is None:
        raise NotEditable("it is not written in block style")
    found = _entry(root, table)
    if found is None:
        return [_inserted(root, {table: wanted[table]})]
    entries = _block(found[1])
    if entries is None:
        return [_replaced(found, {table: wanted[table]})]
    edits: list[_Edit] = []
    new: dict[str, Any] = {}
    for name, values in lists.items():
        entry = _entry(entries, name)
        if entry is None:
            new[name] = wanted[table][name]
            continue
        fields = _block(entry[1])
        field = None if fields is None else _entry(fields, key)
        if fields is None:
            edits.append(_replaced(entry, {name: wanted[table][name]}))
        elif field is None:
            edits.append(_inserted(fields, {key: list(values)}))
        elif wanted[table][name] != before[table][name]:
            edits.append(_replaced(field, {key: list(values)}))
    return [*edits, _inserted(entries, new)] if new else edits


def _block(node: yaml.Node) -> yaml.MappingNode | None:
    """The node, where it is a mapping in block style with something in it."""
    is_block = isinstance(node, yaml.MappingNode) and not node.flow_style and node.value
    return node if is_block else None


def _entry(mapping: yaml.MappingNode, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    found = [each for each in mapping.value if each[0].value == key]
    if len(found) > 1:
        raise NotEditable(f"`{key}` stands there {len(found)} times")
    return found[0] if found else None


def _inserted(mapping: yaml.MappingNode, value: dict[str, Any]) -> _Edit:
    """Before the mapping's first key."""
    mark = mapping.value[0][0].start_mark
    return _Edit(mark.line, mark.line, _rendered(value), " " * mark.column)


def _replaced(entry: tuple[yaml.Node, yaml.Node], value: dict[str, Any]) -> _Edit:
    mark = entry[0].start_mark
    return _Edit(mark.line, _last_line(entry[1]) + 1, _rendered(value), " " * mark.column)


def _last_line(node: yaml.Node) -> int:
    """The line of a node's last character; what the parser says of block style includes comments behind it."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        return max(_last_line(value) for _, value in node.value)
    if isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
        return max(_last_line(value) for value in node.value)
    mark = node.end_mark
    ends_before = mark.column == 0 and mark.line > node.start_mark.line
    return int(mark.line) - int(ends_before)


def _rendered(value: Mapping[str, Any]) -> list[str]:
    """A mapping in block style, its lists in flow style."""
    lines: list[str] = []
    for key, inner in value.items():
        name = key if isinstance(key, str) and _PLAIN.fullmatch(key) else json.dumps(key)
        if isinstance(inner, dict) and inner:
            lines += [f"{name}:", *(f"  {line}" for line in _rendered(inner))]
        else:
            lines.append(f"{name}: {json.dumps(inner, ensure_ascii=False)}")
    return lines


def _applied(text: str, edits: Sequence[_Edit]) -> str:
    lines = lines_of(text)
    for edit in sorted(edits, key=lambda each: each.start, reverse=True):
        addition = block(edit.lines, "".join(lines[edit.start : edit.end]), edit.indent)
        lines[edit.start : edit.end] = [addition]
    return "".join(lines)
