"""Turns of pieces that are sent, for tests without a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from peer.connection import Waiting


def later(seconds: float) -> Callable[[int, Callable[[], None]], Waiting | None]:
    """A way to book in which each turn comes after so many seconds."""

    def book(_: int, go: Callable[[], None]) -> Waiting | None:
        return asyncio.get_running_loop().call_later(seconds, go) if seconds else None

    return book
