"""`/v2/`: whether the registry as such lets somebody in. Clients ask it first, and `docker login` asks nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from aiohttp import web

from peer.origin import OriginDenied, OriginError
from proxy.flight import SingleFlight
from proxy.identity import Identity
from proxy.responses import API_HEADERS, Call
from proxy.tags import Resolver
from shoal.descriptor import Descriptor
from shoal.digest import Digest
from shoal.recent import Recent
from shoal.reference import Location, Registry, Repository, Tag

BODY = b"{}"
_KIND = "base"
_OPEN_SECONDS = 600.0
"""How long a registry that lets everybody in is taken to do so; what it lets be read is asked for with each tag."""

_SHORT_SECONDS = 5.0
_MAX_ENTRIES = 10_000


class BaseOrigin(Protocol):
    """Who is asked (`proxy.upstream.UpstreamClient` implements it)."""

    async def check(self, registry: Registry, identity: Identity) -> object:
        """Whether the registry lets somebody in; raises `OriginError`."""


class BaseFrontend:
    """Answers `/v2/`, for clients without credentials from the cluster's common knowledge where there is some.

    A registry that cannot be asked lets in who says nothing, so that what is cached can be pulled, and nobody else.
    What it wants to be signed in with is asked of it by each node: a member of the cluster that told another address
    would be sent the clients' passwords.
    """

    def __init__(
        self,
        origin: BaseOrigin,
        resolver: Resolver | None,
        rights_freshness: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`resolver` is None where there is no supernode. `rights_freshness`: seconds that a yes to a client lasts."""
        self._origin = origin
        self._resolver = resolver
        self.rights_freshness = rights_freshness
        self._clock = clock
        self._verdicts: Recent[tuple[Registry, str], tuple[OriginError | None, float]] = Recent(_MAX_ENTRIES)
        self._flights: SingleFlight[tuple[Registry, str], None] = SingleFlight()

    async def answer(self, call: Call, registry: Registry, identity: Identity) -> None:
        """GET and HEAD; raises `OriginError`."""
        key = registry, identity.key
        error, until = self._verdicts.get(key, (None, 0.0))
        if self._clock() >= until:
            await self._flights.run(key, lambda: self._judge(registry, identity))
        elif error is not None:
            raise error.with_traceback(None)  # which would grow with each time that it is raised
        await call.send(web.Response(body=BODY, content_type="application/json", headers=API_HEADERS))

    async def close(self) -> None:
        """Give up the questions underway."""
        await self._flights.close()

    async def _judge(self, registry: Registry, identity: Identity) -> None:
        try:
            await (self._check(registry, identity) if identity.is_client else self._check_together(registry, identity))
        except OriginDenied as error:
            self._remember(registry, identity, error, _SHORT_SECONDS if identity.is_client else self.rights_freshness)
            raise
        except OriginError:
            if identity.is_client:
                raise
            self._remember(registry, identity, None, _SHORT_SECONDS)
            return
        self._remember(registry, identity, None, self.rights_freshness if identity.is_client else _OPEN_SECONDS)

    async def _check(self, registry: Registry, identity: Identity) -> None:
        await self._origin.check(registry, identity)

    async def _check_together(self, registry: Registry, identity: Identity) -> None:
        """One node of the cluster asks; that a registry lets everybody in is published as the body that it answers."""
        place, resolver = (Location(registry, Repository("")), Tag("")), self._resolver
        answer = None
        if resolver is not None:
            answer = await resolver.resolve(*place, _KIND, identity.key, _OPEN_SECONDS)
        if answer is not None and answer.state == "fresh":
            return
        is_open = False
        try:
            await self._check(registry, identity)
            is_open = True
        finally:
            if resolver is not None and answer is not None and answer.state == "ask":
                found = Descriptor(Digest.of(BODY), len(BODY)) if is_open else None
                resolver.publish(*place, _KIND, identity.key, found, missing=False)

    def _remember(self, registry: Registry, identity: Identity, error: OriginError | None, seconds: float) -> None:
        key = registry, identity.key
        self._verdicts.put(key, (error, self._clock() + seconds))
