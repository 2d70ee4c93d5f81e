"""As whom the engine fetches at each place: this node, clients that the origin lets read there, or nobody. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.identity import ANONYMOUS, Identity
from shoal.recent import Recent
from shoal.reference import Location

LENT_SECONDS = 600.0
"""How long a client's credentials serve for fetching what he asked for, after they were last used."""

_MAX_LOCATIONS = 4096
_MAX_CLIENTS = 8
"""Clients of one place whose credentials are held: one that works is enough."""


@dataclass(slots=True)
class _Place:
    """Who may fetch at one place."""

    clients: Recent[str, tuple[Identity, float]] = field(default_factory=lambda: Recent(_MAX_CLIENTS))
    served: str = ""
    """Whom the origin served last there."""


class Lending:
    """Held in memory alone, and only to fetch: whether a client may have what is fetched is judged elsewhere."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._places: Recent[Location, _Place] = Recent(_MAX_LOCATIONS)

    def lend(self, location: Location, identity: Identity) -> None:
        """A client may read there, and asks for something."""
        self._place(location).clients.put(identity.key, (identity, self._clock() + LENT_SECONDS))

    def order(self, location: Location, node: Identity | None) -> list[Identity]:
        """As whom to fetch there, in order: whoever was served last, this node, the newest client, nobody."""
        place = self._places.get(location)
        if place is None:
            return [ANONYMOUS] if node is None else [node, ANONYMOUS]
        now = self._clock()
        for key in [key for key, (_, until) in place.clients.items() if until <= now]:
            del place.clients[key]
        clients = [identity for identity, _ in reversed(place.clients.values())]
        chosen = [*([] if node is None else [node]), *clients, ANONYMOUS]
        return sorted(chosen, key=lambda identity: identity.key != place.served)

    def served(self, location: Location, identity: Identity) -> None:
        """The origin gave what was asked for."""
        place = self._place(location)
        place.served = identity.key
        if identity.key in place.clients:
            place.clients[identity.key] = identity, self._clock() + LENT_SECONDS

    def was_served(self, location: Location, identity: Identity) -> bool:
        """Whether he is whom the origin served last: what it does not have for him, it does not have."""
        place = self._places.get(location)
        return place is not None and place.served == identity.key

    def refused(self, location: Location, identity: Identity) -> None:
        """The origin does not let him read there, or not any more."""
        place = self._places.get(location)
        if place is not None:
            place.clients.pop(identity.key, None)

    def _place(self, location: Location) -> _Place:
        return self._places.put(location, self._places.get(location) or _Place())
