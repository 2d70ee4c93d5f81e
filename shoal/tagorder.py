"""The order of tags as versions: which of them are the newest."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PART = re.compile(r"([0-9]+)|([A-Za-z]+)")
_PRERELEASES = frozenset(
    {"alpha", "beta", "rc", "cr", "pre", "preview", "prerelease", "dev", "snapshot", "nightly", "canary", "edge"}
    | {"ea", "experimental", "insiders", "milestone", "next", "test", "unstable", "a", "b", "m"}
)
_PRERELEASE, _END, _WORD, _NUMBER = range(4)


def version_key(tag: str) -> tuple[tuple[int, int, str], ...]:
    """What tags are sorted by, the newest last.

    Numbers count as numbers (1.10 is newer than 1.9), a longer version is newer than its beginning (1.9.1 than 1.9),
    and one that is to come is older (2.0-rc1 than 2.0). A tag without a number is older than all that have one.
    """
    parts: list[tuple[int, int, str]] = []
    for number, word in _PART.findall(tag.removeprefix("v")):
        if number:
            parts.append((_NUMBER, int(number), ""))
        elif word.lower() in _PRERELEASES:
            parts.append((_PRERELEASE, 0, word.lower()))
        else:
            parts.append((_WORD, 0, word.lower()))
    return (*parts, (_END, 0, ""))


def newest(tags: Iterable[str], count: int) -> list[str]:
    """The `count` newest of these tags, the newest first."""
    return sorted(set(tags), key=lambda tag: (version_key(tag), tag), reverse=True)[:count]
