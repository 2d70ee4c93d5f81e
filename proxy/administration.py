"""What an operator asks of a running node: its state, and to keep, check or forget what it holds.

JSON over the operations port.

Who may is decided in `shoal.changes`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import structlog
from aiohttp import web

from proxy.keeping import Keeping, Name
from proxy.limits import LimitBoard
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
from proxy.settings import ProxySettings
from proxy.tags import TagResolver
from proxy.verification import Verification
from shoal.changes import Changes
from shoal.limitbook import LimitBook
from shoal.limits import LIMITS_PATH, LimitOrder
from shoal.reference import Location, Reference, Registry
from shoal.revision import RELOAD_PATH, Reload, ReloadOrder

log = structlog.get_logger()


class Library(Protocol):
    """What is looked at of this node's store (`peer.supply` implements it)."""

    @property
    def store_fault(self) -> str:
        """Why the store takes nothing; empty as long as it works."""


class Administration:
    """One node's administration; `routes` belong to its operations server."""

    def __init__(
        self,
        settings: ProxySettings,
        tags: TagResolver,
        library: Library,
        board: LimitBoard,
        connected: Callable[[], bool],
        changes: Changes,
        keeping: Keeping,
        verification: Verification,
        limits: LimitBook,
        reload: Reload,
    ) -> None:
        """`connected`: whether the supernode is there. `reload` reads the daemon's configuration again."""
        self._settings = settings
        self._tags = tags
        self._library = library
        self._board = board
        self._connected = connected
        self._changes = changes
        self._keeping = keeping
        self._verification = verification
        self._limits = limits
        self._reload = reload

    def reconfigure(self, settings: ProxySettings) -> None:
        """These upstreams there are from now on."""
        self._settings = settings

    def routes(self) -> list[web.RouteDef]:
        """The node's state, and its changes."""
        change, keeping, to_thread = self._changes.change, self._keeping, asyncio.to_thread
        return [
            web.get(STATUS_PATH, self._changes.look(self.status)),
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

    def status(self) -> dict[str, object]:
        """The supernode, the store, and each upstream with its rate limit as it was last said."""
        now = time.monotonic()
        upstreams = []
        for name in sorted({*map(Registry, self._settings.upstreams), *self._board.limits, *self._board.quiet_until}):
            limit = self._board.limits.get(name)
            upstreams.append(
                {
                    "registry": name,
                    "limit": limit.limit if limit is not None else None,
                    "remaining": limit.remaining if limit is not None else None,
                    "quiet_seconds": round(max(0.0, self._board.quiet_until.get(name, 0.0) - now), 1),
                }
            )
        return {
            "supernode_connected": self._connected(),
            "store_fault": self._library.store_fault,
            "upstreams": upstreams,
        }

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
