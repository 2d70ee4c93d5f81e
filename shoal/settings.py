"""Configuration: one TOML file, environment variables over it, flags over those, checked once into frozen structures.

A configuration is a tree of `msgspec.Struct`. Sizes, rates and durations are plain numbers there (bytes, bytes per
second, seconds); their fields have the types of `shoal.fields`, so that people may write `"256MiB"` or `"30s"`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, get_args, get_origin

import msgspec

from shoal.fields import allowed, bare, unit_of
from shoal.redaction import MASK, redacted
from shoal.toml import KeyPath, dotted, is_secret

S = TypeVar("S", bound=msgspec.Struct)

_PREFIX, _NESTING = "SHOAL_", "__"
_SERVICE = "tcp://"
"""What Kubernetes' own variables begin with that are called as a setting might be."""
_NAMED = re.compile(r"`([a-z0-9_.]+)`")
"""Keys in the errors of a table."""
_DEFAULTS = "defaults"
_MAX_SHOWN = 200
_MAX_DEPTH = 16
"""Tables one in the other: far more than any setting lies in."""


class SettingsError(Exception):
    """A configuration that cannot be used. Its text names the source, the key, the value and what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class Override(NamedTuple):
    """A flag of the command line that sets the key `path`."""

    flag: str
    path: KeyPath
    value: object


def load(
    kind: type[S],
    file: Path | None,
    environ: Mapping[str, str],
    overrides: Iterable[Override] = (),
    defaults: Mapping[str, object] = MappingProxyType({}),
) -> S:
    """The configuration of type `kind`; raises `SettingsError`. `defaults` go before those of `kind` itself.

    A variable `SHOAL_PEER__PORT` sets `peer.port`; one that begins with `{` or `[` may hold a table or a list as JSON.
    Variables without `__` are no settings: Kubernetes makes some for a service's sake, such as
    SHOAL_SUPERNODE_PORT=tcp://10.0.0.1:5090. One that has `_` where a setting has `__` is a slip, and refused.
    """
    layers = _Layers()
    layers.put((), dict(defaults), _DEFAULTS)
    if file is not None:
        layers.put((), _read(file), str(file))
    meant = {_PREFIX + "_".join(key).upper(): key for key in _keys(kind, ()) if len(key) > 1}
    for name, value in sorted(environ.items()):
        if name.startswith(_PREFIX) and _NESTING in name:
            path = tuple(name.removeprefix(_PREFIX).lower().split(_NESTING))
            layers.put(path, _structured(value), f"environment variable {name}", text=True)
        elif name in meant and not value.startswith(_SERVICE):
            variable = _PREFIX + _NESTING.join(meant[name]).upper()
            raise SettingsError(f"environment variable {name} sets nothing (did you mean {variable}?)")
    for flag, key, set_to in overrides:
        layers.put(key, set_to, f"flag {flag}", text=True)
    settings: S = _Checker(kind, layers).build(kind, layers.values, ())
    return settings


# --- sources ---------------------------------------------------------------------------------------------------------


class _Layers:
    """Values of several sources, one over the other, with the source of each."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._sources: dict[KeyPath, tuple[str, bool]] = {}

    def put(self, path: KeyPath, value: object, source: str, *, text: bool = False) -> None:
        """Lay `value` over what is at `path`, tables key by key. `text`: numbers may be written as strings.

        Raises `SettingsError` where a source below has something else than the table in which `path` is.
        """
        if len(path) > _MAX_DEPTH:
            raise SettingsError(f"{source}: {dotted(path[:_MAX_DEPTH])[:_MAX_SHOWN]} is nested too deeply")
        if isinstance(value, dict):
            for key, inner in value.items():
                self.put((*path, key), inner, source, text=text)
            if value or not path:
                return
        table = self.values
        for depth, key in enumerate(path[:-1], start=1):
            upper = table.setdefault(key, {})
            if not isinstance(upper, dict):
                there = f"{dotted(path[:depth])} is {_sort(upper)} and not a table ({self.source(path[:depth])})"
                raise SettingsError(f"{source}: {dotted(path)} cannot be set: {there}")
            table = upper
        if value == {} and isinstance(table.get(path[-1]), dict):
            return
        table[path[-1]] = value
        self._sources[path] = source, text

    def source(self, path: KeyPath) -> str:
        """Where a value comes from; for a table, where its parts come from."""
        found = self._nearest(path)
        if found is not None:
            return found[0]
        below = [source for key, (source, _) in self._sources.items() if key[: len(path)] == path]
        return ", ".join(dict.fromkeys(below)) or _DEFAULTS

    def blamed(self, keys: Iterable[KeyPath], table: KeyPath) -> str:
        """Where what stands at `keys` comes from; where nothing does, where the parts of their table come from."""
        found = dict.fromkeys(source for key in keys if (source := self.source(key)) != _DEFAULTS)
        return ", ".join(found) or self.source(table)

    def is_text(self, path: KeyPath) -> bool:
        """Whether a value came as text."""
        found = self._nearest(path)
        return found is not None and found[1]

    def _nearest(self, path: KeyPath) -> tuple[str, bool] | None:
        while path and path not in self._sources:
            path = path[:-1]
        return self._sources.get(path)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file}: not UTF-8 (byte {error.start})") from None
    except ValueError as error:  # tomllib's own, and that of a number with thousands of digits
        raise SettingsError(f"{file}: not TOML: {error}") from None
    except RecursionError:
        raise SettingsError(f"{file}: not TOML: nested too deeply") from None


def _structured(value: str) -> object:
    if not value.startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


# --- checks ----------------------------------------------------------------------------------------------------------


class _Checker:
    """Builds a configuration from values, so that each error names its key."""

    def __init__(self, root: type[msgspec.Struct], layers: _Layers) -> None:
        self._layers = layers
        self._known = list(_keys(root, ()))

    def build(self, kind: Any, raw: object, path: KeyPath) -> Any:
        """`raw` as a value of type `kind`; raises `SettingsError`."""
        plain = bare(kind)
        if _is_struct(plain):
            return self._struct(plain, self._table(raw, path), path)
        if get_origin(plain) is dict:
            _, inner = get_args(plain)
            return {key: self.build(inner, value, (*path, key)) for key, value in self._table(raw, path).items()}
        if _holds_tables(plain) and isinstance(raw, list):
            (inner,) = get_args(plain)
            return [self.build(inner, value, (*path, str(place))) for place, value in enumerate(raw)]
        try:
            return _leaf(kind, raw, strict=not self._layers.is_text(path))
        except ValueError:  # msgspec.ValidationError is one
            shown = (
                _sort(raw)
                if isinstance(raw, dict | list) or _holds_tables(plain)
                else json.dumps(raw, default=str)[:_MAX_SHOWN]
            )
            raise self._refused(path, shown, allowed(kind)) from None

    def _struct(self, kind: type[msgspec.Struct], raw: dict[str, Any], path: KeyPath) -> msgspec.Struct:
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        for key in raw:
            if key not in fields:
                raise self._unknown((*path, key), fields)
        for key, field in fields.items():
            if field.required and key not in raw:
                raise SettingsError(f"{self._layers.source(path)}: {dotted((*path, key))} is missing")
        values = {
            field.name: self.build(field.type, raw[key], (*path, key)) for key, field in fields.items() if key in raw
        }
        try:
            return kind(**values)
        except ValueError as error:
            where = f"{dotted(path)}: " if path else ""
            named = [(*path, *key.split(".")) for key in _NAMED.findall(str(error))]
            raise SettingsError(f"{self._layers.blamed(named, path)}: {where}{error}") from None

    def _table(self, raw: object, path: KeyPath) -> dict[str, Any]:
        if not isinstance(raw, dict):
            raise self._refused(path, _sort(raw), "a table")  # what stands there may hold secrets
        return raw

    def _refused(self, path: KeyPath, shown: str, allowed: str) -> SettingsError:
        shown = MASK if any(is_secret(key) for key in path) else shown
        return SettingsError(
            f"{self._layers.source(path)}: {dotted(path)} = {shown} is not allowed (allowed: {allowed})"
        )

    def _unknown(self, path: KeyPath, siblings: Mapping[str, object]) -> SettingsError:
        near = difflib.get_close_matches(path[-1], siblings, n=1)
        guess: KeyPath | None = (*path[:-1], near[0]) if near else None
        if guess is None:
            guess = next((known for known in self._known if known[-1] == path[-1]), None)
        hint = f"did you mean {dotted(guess)}? " if guess else ""
        return SettingsError(
            f"{self._layers.source(path)}: unknown key {dotted(path)} ({hint}allowed here: {', '.join(siblings)})"
        )


def _leaf(kind: Any, raw: object, *, strict: bool) -> Any:
    if isinstance(raw, str):
        raw.encode()  # text with undecodable bytes in it comes from the environment
        unit = unit_of(kind)
        raw = raw if unit is None else unit.parse(raw)
    if isinstance(raw, float) and not math.isfinite(raw):
        raise ValueError("not a finite number")
    return msgspec.convert(raw, kind, strict=strict, dec_hook=_path)


def _path(kind: type, raw: object) -> Path:
    if kind is not Path or not isinstance(raw, str) or not raw or "\0" in raw:
        raise ValueError(f"not a path: {raw!r}")
    try:
        return Path(raw).expanduser()
    except RuntimeError as error:  # no such user
        raise ValueError(str(error)) from None


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _holds_tables(kind: Any) -> bool:
    """Whether values of a kind are lists of tables: text in place of one may hold their secrets."""
    return get_origin(kind) is list and _is_struct(get_args(kind)[0])


def _sort(raw: object) -> str:
    names = {dict: "(a table)", list: "(a list)", str: "(a text)", bool: "(true or false)"}
    return names.get(type(raw), "(a number)")


def _keys(kind: Any, path: KeyPath) -> Iterator[KeyPath]:
    plain = bare(kind)
    if _is_struct(plain):
        for field in msgspec.structs.fields(plain):
            yield (*path, field.encode_name)
            yield from _keys(field.type, (*path, field.encode_name))
