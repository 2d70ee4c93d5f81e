"""The `WWW-Authenticate` header (RFC 9110, section 11.6.1). No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_MAX_LENGTH = 8192
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SPACE = re.compile(r"[ \t]*")
_SEPARATORS = re.compile(r"[ \t,]*")
_EQUALS = re.compile(r"[ \t]*=[ \t]*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in which a server asks for authentication. `scheme` and the parameters' names are in lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """All challenges of a response's `WWW-Authenticate` headers, in order.

    What does not parse ends its header; the challenges before it count.
    """
    challenges: list[Challenge] = []
    for header in headers:
        challenges += _parse(header[:_MAX_LENGTH])
    return challenges


def _parse(header: str) -> list[Challenge]:
    challenges: list[Challenge] = []
    place = _skip(_SEPARATORS, header, 0)
    while (token := _TOKEN.match(header, place)) is not None:
        parameter = _parameter(header, token) if challenges else None
        if parameter is not None:
            name, value, place = parameter
            challenges[-1].parameters.setdefault(name, value)
        else:
            challenges.append(Challenge(token[0].lower()))
            place = _skip(_SPACE, header, token.end())
            blob = _TOKEN68.match(header, place) if place > token.end() else None
            if blob is not None:
                place = blob.end()
        place = _skip(_SEPARATORS, header, place)
    return challenges


def _parameter(header: str, name: re.Match[str]) -> tuple[str, str, int] | None:
    """The parameter that begins with the token `name`, and the place behind it; None where it is no parameter."""
    equals = _EQUALS.match(header, name.end())
    if equals is None:
        return None
    quoted = _QUOTED.match(header, equals.end())
    if quoted is not None:
        return name[0].lower(), re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL), quoted.end()
    value = _TOKEN.match(header, equals.end())
    if value is None:
        return None
    return name[0].lower(), value[0], value.end()


def _skip(pattern: re.Pattern[str], header: str, place: int) -> int:
    match = pattern.match(header, place)
    return match.end() if match is not None else place
