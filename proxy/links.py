"""The `Link` header (RFC 8288, section 3). No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_MAX_LENGTH = 16 << 10
_TARGET = re.compile(r"[ \t,]*<([^<>]*)>")
_PARAMETER = re.compile(
    r'[ \t]*;[ \t]*([!#$%&\'*+.^_`|~0-9A-Za-z-]*)(?:[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s",;]*)))?'
)


@dataclass(frozen=True, slots=True)
class Link:
    """A link's target as it stands there, and its relations in lower case."""

    target: str
    relations: frozenset[str]


def parse_links(headers: Iterable[str]) -> list[Link]:
    """All links of a response's `Link` headers, in order. What does not parse ends its header."""
    links: list[Link] = []
    for header in headers:
        text, place = header[:_MAX_LENGTH], 0
        while (target := _TARGET.match(text, place)) is not None:
            place = target.end()
            relations: str | None = None
            while (parameter := _PARAMETER.match(text, place)) is not None:
                place = parameter.end()
                if parameter[1].lower() == "rel" and relations is None:  # the first one counts
                    quoted = parameter[2]
                    relations = parameter[3] or "" if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            links.append(Link(target[1].strip(), frozenset((relations or "").lower().split())))
    return links
