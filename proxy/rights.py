"""Who may read which repository, as the origin last said it. No I/O; time in seconds is passed in.

A yes to a client's own credentials is short, and theirs alone. What everybody may read stays so until the origin says
otherwise: each question about a tag asks that too, and content that was once given to everybody is no secret.
"""

from __future__ import annotations

from peer.origin import OriginDenied
from proxy.identity import Identity
from shoal.recent import Recent
from shoal.reference import Location

REFUSED_SECONDS = 5.0
"""How long a no is given without asking again: clients ask several times in a row."""

MAX_ENTRIES = 50_000
_ALWAYS = float("inf")

_Key = tuple[Location, str]


class Rights:
    """The origin's word on each repository and identity, bounded in number."""

    def __init__(self, seconds: float) -> None:
        """`seconds`: how long a yes to a client's own credentials is good for."""
        self.seconds = seconds
        self._granted: Recent[_Key, float] = Recent(MAX_ENTRIES)
        self._refused: Recent[_Key, tuple[OriginDenied, float]] = Recent(MAX_ENTRIES)

    def are_granted(self, location: Location, identity: Identity, now: float) -> bool:
        """Whether this identity may read there, as far as is known."""
        return now < self._granted.get((location, identity.key), 0.0)

    def refusal(self, location: Location, identity: Identity, now: float) -> OriginDenied | None:
        """The origin's no, as long as it is fresh."""
        error, until = self._refused.get((location, identity.key), (None, 0.0))
        if error is None or now >= until:
            return None
        return error.with_traceback(None)  # which would grow with each time that it is raised

    def grant_for_now(self, location: Location, identity: Identity, now: float, seconds: float) -> None:
        """One other node says that the origin lets this identity read there; nobody has confirmed it yet."""
        key = location, identity.key
        self._granted.put(key, max(now + seconds, self._granted.get(key, 0.0)))

    def grant(self, location: Location, identity: Identity, now: float) -> bool:
        """The origin lets this identity read there. True where that is news."""
        key = location, identity.key
        self._refused.pop(key, None)
        before = self._granted.get(key)
        is_news = before is None if identity.is_client else before != _ALWAYS
        self._granted.put(key, now + self.seconds if identity.is_client else _ALWAYS)
        return is_news

    def refuse(self, location: Location, identity: Identity, error: OriginDenied, now: float) -> None:
        """The origin does not let this identity read there, or not any more."""
        key = location, identity.key
        self._granted.pop(key, None)
        self._refused.put(key, (error, now + REFUSED_SECONDS))

    def revoke(self, location: Location, identity: str) -> None:
        """Whether the identity of this key may read there is not known any more."""
        self._granted.pop((location, identity), None)

    def forget_clients(self, location: Location) -> None:
        """The origin is asked anew about clients' own credentials, and about everybody whom it refused."""
        for key in [key for key, until in self._granted.items() if key[0] == location and until != _ALWAYS]:
            del self._granted[key]
        for key in [key for key in self._refused if key[0] == location]:
            del self._refused[key]
