"""What an operator asks of a running node: its state, and to keep, check or forget what it holds.

JSON over the operations port.

Who may is decided in `shoal.changes`.
"""

from __future__ import annotations

import asyncio

import structlog
from aiohttp import web

from proxy.keeping import Keeping, Name
from proxy.orders import (
    IMAGES_PATH,
    PIN_PATH,
    REFRESH_PATH,
    REMOVE_PATH,
    STATUS_PATH,
    SWEEP_PATH,
    UNPIN_PATH,
    VERIFY_PATH,
    ImageOrder,
    SweepOrder,
    VerifyOrder,
)
from proxy.state import NodeState
from proxy.tags import TagResolver
from proxy.verification import Verification
from shoal.changes import Changes
from shoal.limitbook import LimitBook
from shoal.limits import LIMITS_PATH, LimitOrder
from shoal.reference import Location, Reference
from shoal.revision import RELOAD_PATH, Reload, ReloadOrder

log = structlog.get_logger()


class Administration:
    """One node's administration; `routes` belong to its operations server."""

    def __init__(
        self,
        state: NodeState,
        tags: TagResolver,
        changes: Changes,
        keeping: Keeping,
        verification: Verification,
        limits: LimitBook,
        reload: Reload,
    ) -> None:
        """`reload` reads the daemon's configuration again."""
        self._state = state
        self._tags = tags
        self._changes = changes
        self._keeping = keeping
        self._verification = verification
        self._limits = limits
        self._reload = reload

    def routes(self) -> list[web.RouteDef]:
        """The node's state, and its changes."""
        change, keeping, to_thread = self._changes.change, self._keeping, asyncio.to_thread
        return [
            web.get(STATUS_PATH, self._changes.look(self._state.shown)),
            web.get(IMAGES_PATH, self._changes.look(self.images)),
            web.post(REFRESH_PATH, change("refresh", ImageOrder, lambda order: self.refresh(order.reference))),
            web.post(REMOVE_PATH, change("rm", ImageOrder, lambda order: self.remove(order.image))),
            web.post(PIN_PATH, change("pin", ImageOrder, lambda order: to_thread(keeping.pin, order.image))),
            web.post(UNPIN_PATH, change("unpin", ImageOrder, lambda order: to_thread(keeping.unpin, order.image))),
            web.post(SWEEP_PATH, change("gc", SweepOrder, lambda order: to_thread(keeping.sweep, order.dry_run))),
            web.post(VERIFY_PATH, change("verify", VerifyOrder, lambda _: self._verification.begin())),
            web.get(VERIFY_PATH, self._changes.look(self._verification.progress)),
            web.get(LIMITS_PATH, self._changes.look(self._limits.shown)),
            web.post(LIMITS_PATH, change("limit", LimitOrder, self._limits.obey)),
            web.post(RELOAD_PATH, change("reload", ReloadOrder, lambda _: self._reload())),
        ]

    async def refresh(self, image: Reference) -> dict[str, object]:
        """The next request for any tag of this repository asks the origin, on each node of the cluster."""
        location = Location(image.registry, image.repository)
        self._tags.refresh(location)
        log.info("tag.refreshed", location=str(location))
        return {"refreshed": f"{location.registry}/{location.repository}"}

    async def remove(self, image: str) -> dict[str, object]:
        """Forget an image, and remove it from the store (`Keeping.remove`)."""
        name = Name.parse(image)
        outcome = await asyncio.to_thread(self._keeping.remove, image)
        if name.location is not None:
            self._tags.forget(name.location, {name.target, *outcome["removed"]})
        return outcome

    async def images(self) -> dict[str, object]:
        """All images in the store."""
        return await asyncio.to_thread(self._keeping.images, self._tags.known())
