"""Content digests in OCI's form, `algorithm:hex` (OCI image specification, "Digests")."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from hashlib import _Hash

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_PATTERN = re.compile(r"(sha256|sha512):([0-9a-f]+)")


class InvalidDigest(ValueError):
    """A string that is not a digest of a supported algorithm."""


class Digest(str):
    """A digest that was parsed: `sha256:` or `sha512:` and lower-case hexadecimal of the right length.

    It is its own text, so that it serves as a key and travels in messages as it is.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Parse `text`; raises `InvalidDigest`."""
        match = _PATTERN.fullmatch(text)
        if match is None or len(match[2]) != _HEX_LENGTH[match[1]]:
            raise InvalidDigest(f"not a digest: {text[:100]!r} (expected sha256: and 64 lower-case hex digits)")
        return super().__new__(cls, text)

    @classmethod
    def of(cls, content: bytes) -> Self:
        """The SHA-256 digest of `content`."""
        return cls("sha256:" + hashlib.sha256(content).hexdigest())

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        return self.partition(":")[2]

    def hasher(self) -> _Hash:
        """A fresh hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, hasher: _Hash) -> bool:
        """Whether what `hasher` was fed has this digest."""
        return hasher.hexdigest() == self.hex
