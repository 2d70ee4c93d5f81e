"""The docstrings of fields, which Python drops: they are read from the source."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from typing import Any


def of_class(kind: type[Any]) -> str:
    """A class's own docstring on one line, its first paragraph; empty where it has none."""
    return _joined((kind.__doc__ or "").split("\n\n")[0])


def of_field(kind: type[Any], name: str) -> str:
    """What stands below a field, in the class that has it or in the one it comes from; empty where nothing does."""
    return next((found[name] for base in kind.__mro__ if name in (found := _below(base))), "")


@functools.cache
def _below(kind: type[Any]) -> dict[str, str]:
    """The fields that a class itself has, and the text below each."""
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):  # built in
        return {}
    (definition,) = ast.parse(textwrap.dedent(source)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for statement, following in zip(definition.body, [*definition.body[1:], ast.Pass()], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            found[statement.target.id] = _text(following)
    return found


def _text(statement: ast.stmt) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return _joined(str(statement.value.value))
    return ""


def _joined(text: str) -> str:
    return " ".join(text.split())
