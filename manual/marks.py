"""Text in Markdown."""

from __future__ import annotations

import re

_CODE = re.compile(r"(`[^`]*`)")


def escaped(text: str) -> str:
    """A cell of a table: what Markdown would take for more than text is text, but for what stands between backticks."""
    parts = _CODE.split(text.replace("|", "\\|"))
    return "".join(part if part.startswith("`") else _plain(part) for part in parts)


def _plain(text: str) -> str:
    for mark in ("*", "<", "["):
        text = text.replace(mark, f"\\{mark}")
    return text
