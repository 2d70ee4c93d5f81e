"""The operator of a node, who is known by a token: whoever can read the file that it stands in."""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

MIN_TOKEN_LENGTH = 32
"""Characters. A token of so many is not found by guessing, however often somebody may guess."""

_TOKEN_BYTES = 32
_MAX_FILE_SIZE = 4 << 10
_OWNER_ONLY = 0o600


class TokenUnusable(Exception):
    """There is no token in its file, or the file is not to be read. The text names the file."""


class OperatorToken:
    """The token in a file, which is read anew at each use, so that a token that was replaced counts at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Write a token that nobody knows, for the file's owner alone, where there is no file. Raises `OSError`."""
        if self.path.exists():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(f"{self.path.name}.new")
        new.unlink(missing_ok=True)  # of a start that did not come to its end
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY), "w", encoding="ascii") as file:
            file.write(f"{secrets.token_urlsafe(_TOKEN_BYTES)}\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)

    def read(self) -> str:
        """The token; raises `TokenUnusable`."""
        try:
            with self.path.open("rb") as file:
                token = file.read(_MAX_FILE_SIZE).decode("ascii").strip()
        except OSError as error:
            raise TokenUnusable(f"the operator's token {str(self.path)!r} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            token = ""
        if len(token) < MIN_TOKEN_LENGTH or not token.isprintable() or " " in token:
            raise TokenUnusable(
                f"{str(self.path)!r} holds no operator's token (allowed: {MIN_TOKEN_LENGTH} or more letters and digits)"
            )
        return token

    def is_in(self, authorization: Sequence[str]) -> bool:
        """Whether the `Authorization` headers of a request are this token as a `Bearer`; raises `TokenUnusable`."""
        if len(authorization) != 1:
            return False
        scheme, _, token = authorization[0].partition(" ")
        given = token.strip().encode(errors="surrogateescape")
        return scheme.lower() == "bearer" and hmac.compare_digest(given, self.read().encode())
