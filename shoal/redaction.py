"""What must not be read by others, taken out of a text: passwords, tokens, and signed addresses.

Texts are to be made without such things. This is the last look at those of errors and logs, in which the words of a
library or of another host may stand.
"""

from __future__ import annotations

import re

MASK = "***"
"""Stands for a secret."""

USER_INFO = re.compile(r"(?<=//)[^/@\s\"']+@")
"""In an address: a user's name and password."""

_QUERY = re.compile(r"(?<=//)([^\s\"'<>?]+)\?[^\s\"'<>]+")
"""In an address: a query, which may sign it."""

_CREDENTIALS = re.compile(r"\b(basic|bearer)\s+[A-Za-z0-9._~+/=-]{16,}", re.IGNORECASE)
"""The value of an `Authorization` header; shorter ones are words of a sentence."""


def redacted(text: str) -> str:
    """The text with a mask where a secret may have stood."""
    if "//" in text:
        text = _QUERY.sub(rf"\1?{MASK}", USER_INFO.sub(f"{MASK}@", text))
    return _CREDENTIALS.sub(rf"\1 {MASK}", text)
