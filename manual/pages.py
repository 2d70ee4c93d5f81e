"""The pages of docs/ that are written from the code, as a whole or between two marks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from manual import markdown, messages, modules, settings
from peer import wire
from supernode import protocol

DOCS = Path(__file__).parent.parent / "docs"

_PARTS: Mapping[str, Callable[[], str]] = {
    "settings": settings.page_part,
    "from-peer": lambda: messages.page_part(protocol.FromPeer),
    "from-supernode": lambda: messages.page_part(protocol.FromSupernode),
    "between-peers": lambda: messages.page_part(wire.Kinds),
}
_MARKED = re.compile(
    r"(?P<head><!-- `make manual` writes (?P<name>[a-z-]+) -->\n).*?(?P<tail><!-- until here -->)", re.DOTALL
)


def pages() -> dict[Path, str]:
    """All such pages, as they should be; raises `LookupError` where a part has no place in any."""
    missing = set(_PARTS)
    found = {DOCS / "commands.md": markdown.commands_page(), DOCS / "modules.md": modules.modules_page()}
    for name in ("configuration.md", "protocols.md"):
        text = (DOCS / name).read_text(encoding="utf-8")
        found[DOCS / name] = _MARKED.sub(_written, text)
        missing -= {marked["name"] for marked in _MARKED.finditer(text)}
    if missing:
        raise LookupError(f"no page has a place for {', '.join(sorted(missing))}")
    return found


def write() -> None:
    """Bring them up to date."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


def _written(marked: re.Match[str]) -> str:
    return f"{marked['head']}{_PARTS[marked['name']]()}\n{marked['tail']}"
