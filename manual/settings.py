"""The settings of docs/configuration.md: all keys of the configuration, by tables."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec

from manual import docstrings
from manual.commands import everything, program
from manual.marks import escaped
from shoal.cli.configuration import Configuration
from shoal.cli.options import InvocationOption
from shoal.fields import allowed, bare, is_live, unit_of
from shoal.toml import KeyPath

NAME = "*"
"""In place of a table's name that people choose."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the configuration file."""

    path: KeyPath
    kind: type[msgspec.Struct]
    is_list: bool
    """Whether there are several of it, as `[[...]]`."""
    is_live: bool
    """Whether all of it can change while a daemon runs."""
    defaults: object
    """What it is where nobody says anything; None where there is none."""

    @property
    def heading(self) -> str:
        """As TOML writes it."""
        name = written(self.path)
        return f"[[{name}]]" if self.is_list else f"[{name}]"


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a table."""

    table: Table
    field: msgspec.structs.FieldInfo

    @property
    def path(self) -> KeyPath:
        """The whole key."""
        return (*self.table.path, self.field.encode_name)

    @property
    def variable(self) -> str:
        """The environment variable; empty below a name that people choose, and in a list of tables."""
        return "" if self.table.is_list or NAME in self.path else f"SHOAL_{'__'.join(self.path).upper()}"

    @property
    def is_live(self) -> bool:
        """Whether it can change while a daemon runs."""
        return self.table.is_live or is_live(self.field.type)

    @property
    def default(self) -> str:
        """As people write it; empty where it has to be given, or depends on who runs the daemon."""
        value = self._default()
        if value is msgspec.NODEFAULT or isinstance(value, Path):
            return ""
        unit = unit_of(self.field.type)
        if value in (None, "", [], {}):
            return "none"
        if isinstance(value, bool | list | dict):
            return f"`{json.dumps(value)}`"
        return f"`{unit.write(value) if unit else value}`"

    @property
    def allowed(self) -> str:
        """What it may be."""
        kind = bare(self.field.type)
        return "a table" if get_origin(kind) is dict else allowed(self.field.type)

    @property
    def meaning(self) -> str:
        """What it is for."""
        return docstrings.of_field(self.table.kind, self.field.name)

    def _default(self) -> Any:
        field = self.field
        own = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        if self.table.defaults is None or isinstance(own, str):  # what is empty may mean more than one thing
            return own
        return getattr(self.table.defaults, field.name)


def written(path: KeyPath) -> str:
    """A key as people write it, `NAME` where they choose a name."""
    return ".".join('"NAME"' if key == NAME else key for key in path)


def tables(kind: type[msgspec.Struct] = Configuration) -> Iterator[Table]:
    """All tables, each before those inside of it."""
    return _inside(Table((), kind, is_list=False, is_live=False, defaults=kind()))


def settings_of(table: Table) -> Iterator[Setting]:
    """The keys of a table that are no tables themselves."""
    for field in msgspec.structs.fields(table.kind):
        if _struct_in(field.type) is None:
            yield Setting(table, field)


def page_part() -> str:
    """The tables of the page."""
    flags = _flags()
    return "\n".join(line for table in tables() if any(settings_of(table)) for line in _shown(table, flags))


def _inside(table: Table) -> Iterator[Table]:
    if table.path:
        yield table
    for field in msgspec.structs.fields(table.kind):
        inner = _struct_in(field.type)
        if inner is None:
            continue
        sort = get_origin(bare(field.type))
        path = (*table.path, field.encode_name, *([NAME] if sort is dict else []))
        defaults = getattr(table.defaults, field.name) if sort is None and table.defaults is not None else None
        live = table.is_live or is_live(field.type)
        yield from _inside(Table(path, inner, sort is list, live, defaults))


def _struct_in(kind: Any) -> type[msgspec.Struct] | None:
    """The kind of table that a value of this type is, or holds; None where it is something else."""
    plain = bare(kind)
    inner = bare(get_args(plain)[-1]) if get_origin(plain) in {dict, list} else plain
    return inner if isinstance(inner, type) and issubclass(inner, msgspec.Struct) else None


def _flags() -> Mapping[KeyPath, Sequence[str]]:
    """The flags that set each key, of whichever commands."""
    found: dict[KeyPath, list[str]] = defaultdict(list)
    for each in everything(program()):
        for option in each.command.get_params(each.context):
            for path in option.sets if isinstance(option, InvocationOption) else ():
                if option.opts[0] not in found[path]:
                    found[path] += option.opts
    return found


def _shown(table: Table, flags: Mapping[KeyPath, Sequence[str]]) -> Iterator[str]:
    yield ""
    yield f"### `{table.heading}`"
    yield ""
    yield escaped(docstrings.of_class(table.kind))
    yield ""
    yield "| setting | default | allowed | reload | meaning |"
    yield "| --- | --- | --- | --- | --- |"
    for setting in settings_of(table):
        ways = [written(setting.path), setting.variable, *flags.get(setting.path, ())]
        cells = [
            "<br>".join(f"`{way}`" for way in ways if way),
            setting.default,
            escaped(setting.allowed),
            "yes" if setting.is_live else "",
            escaped(setting.meaning),
        ]
        yield f"| {' | '.join(cells)} |"
