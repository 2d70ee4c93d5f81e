"""Where the bytes of a blob go: a reader of this node. `proxy.client` implements it over a client's connection."""

from __future__ import annotations

from typing import Literal, Protocol

Source = Literal["store", "peer", "origin"]
"""Where a byte came from that a client gets: it was here, another peer gave it, or the origin did."""


class Unreadable(Exception):
    """A file could not be read to its end. Of what was to be sent of it, the first `taken` bytes were taken."""

    def __init__(self, message: str, taken: int) -> None:
        super().__init__(message)
        self.taken = taken


class Sink(Protocol):
    """Takes the bytes of a blob in order; what it raises ends the reader and is no fault of the blob."""

    async def write(self, content: bytes | memoryview) -> None:
        """Take bytes from memory. They may leave after the call has returned: nobody may change them any more."""

    async def send_file(self, file: int, start: int, end: int) -> None:
        """Take bytes `start` to `end` of a file by its open descriptor, which stays the caller's.

        Raises `Unreadable` where the file ends early or cannot be read.
        """
