"""Sessions of a browser: what stands for an operator's token once that was shown. No I/O."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from shoal.recent import Recent

LIFETIME_SECONDS = 12 * 3600.0
"""After which the token is to be shown again."""
_MAX_SESSIONS = 256
_NAME_BYTES = 32


@dataclass(frozen=True, slots=True)
class _Session:
    authorization: str
    until: float


class Sessions:
    """The sessions that are open, in memory alone. The token behind one is looked at whenever it is used, so that a
    session ends as soon as its token is replaced."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: Recent[str, _Session] = Recent(_MAX_SESSIONS)

    def open(self, authorization: str) -> str:
        """The name of a new session, which nobody guesses; `authorization` is the header that was found to be good."""
        name = secrets.token_urlsafe(_NAME_BYTES)
        self._sessions.put(name, _Session(authorization, self._clock() + LIFETIME_SECONDS))
        return name

    def authorization(self, name: str) -> str | None:
        """The header by which a session was opened; None where there is no such session any more."""
        session = self._sessions.get(name)
        if session is None:
            return None
        if self._clock() >= session.until:
            del self._sessions[name]
            return None
        return session.authorization

    def close(self, name: str) -> None:
        """End a session; nothing where there is none."""
        self._sessions.pop(name, None)
