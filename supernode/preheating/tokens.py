"""Who may preheat: the operator, and who bears a token of a file that is read again when it changes."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence
from pathlib import Path

import structlog

from shoal.files import FileState, file_state
from shoal.operator import MIN_TOKEN_LENGTH, OperatorToken

log = structlog.get_logger()

OPERATOR = "operator"
_MAX_FILE_SIZE = 1 << 20


class PreheatTokens:
    """Tokens come as a `Bearer`, or as the password of `Basic`, which is what some registries can send."""

    def __init__(self, operator: OperatorToken, file: Path | None) -> None:
        self._operator = operator
        self._file = file
        self._seen: FileState | None = None
        self._names: dict[str, bytes] = {}

    def is_in(self, authorization: Sequence[str]) -> bool:
        """Whether the `Authorization` headers of a request are a token. Raises `TokenUnusable` where there is none to
        compare with."""
        return bool(self.holder(authorization))

    def holder(self, authorization: Sequence[str]) -> str:
        """The name of who bears such a token; empty for nobody. Raises `TokenUnusable`."""
        bearer = _as_bearer(authorization)
        given = bearer[0].partition(" ")[2].encode(errors="surrogateescape") if bearer else b""
        found = ""
        for name, token in self._tokens().items():
            if hmac.compare_digest(given, token):
                found = name
        if found:
            return found
        return OPERATOR if self._operator.is_in(bearer) else ""

    def _tokens(self) -> dict[str, bytes]:
        """The tokens of the file by their names; those of before where it cannot be read."""
        if self._file is None:
            return self._names
        state = file_state(self._file)
        if state == self._seen:
            return self._names
        self._seen = state
        try:
            with self._file.open("rb") as file:
                self._names = _parsed(file.read(_MAX_FILE_SIZE).decode("ascii"))
            log.info("preheat.tokens_read", file=str(self._file), tokens=len(self._names))
        except (OSError, UnicodeDecodeError, ValueError) as error:
            log.error("preheat.tokens_unusable", file=str(self._file), error=str(error))
        return self._names


def _as_bearer(authorization: Sequence[str]) -> list[str]:
    """One header with what may be a token; none where there is nothing of the kind."""
    if len(authorization) != 1:
        return []
    scheme, _, rest = authorization[0].partition(" ")
    if scheme.lower() == "bearer":
        return [f"Bearer {rest.strip()}"]
    if scheme.lower() != "basic":
        return []
    try:
        _, _, password = base64.b64decode(rest.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return []
    return [f"Bearer {password}"]


def _parsed(text: str) -> dict[str, bytes]:
    """Raises `ValueError`."""
    tokens: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name, token = words if len(words) == 2 else (words[0], "")
        if len(token) < MIN_TOKEN_LENGTH or name in tokens or name == OPERATOR:
            raise ValueError(
                f"line {number} is no name of its own and a token (allowed: NAME TOKEN, {MIN_TOKEN_LENGTH} or more "
                "letters and digits)"
            )
        tokens[name] = token.encode()
    return tokens
