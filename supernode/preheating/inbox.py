"""Images that were pushed, until they are preheated: what comes close together is one preheat."""

from __future__ import annotations

import asyncio
from typing import Self

import structlog

from shoal.changes import OrderRefused
from supernode.preheating.board import Crowded, PreheatBoard
from supernode.preheating.order import MAX_IMAGES
from supernode.preheating.pushes import Notification, image_of, pushes
from supernode.preheating.settings import PushSettings

log = structlog.get_logger()

_GATHER_SECONDS, _CROWDED_SECONDS = 1.0, 5.0
_MAX_WAITING = 10 * MAX_IMAGES
_MAX_NAMES, _MAX_SHOWN = 8, 200
"""Pushes that the log names, and characters of each."""


class Inbox:
    """Takes what registries tell, as an async context manager that orders preheats of it."""

    def __init__(self, settings: PushSettings, board: PreheatBoard) -> None:
        self._settings = settings
        self._board = board
        self._waiting: dict[str, None] = {}
        self._arrived = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._ordering = asyncio.create_task(self._order_on(), name="preheats of what was pushed")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ordering.cancel()
        await asyncio.gather(self._ordering, return_exceptions=True)

    def take(self, notification: Notification) -> dict[str, object]:
        """Take note of what was pushed; returns how many images are preheated, and how many are nobody's concern here.

        Raises `OrderRefused` where too many wait.
        """
        told = list(pushes(notification))
        images = [image for image in (image_of(push, self._settings) for push in told) if image is not None]
        if len(self._waiting.keys() | set(map(str, images))) > _MAX_WAITING:
            raise OrderRefused(f"{_MAX_WAITING} images that were pushed wait to be preheated already")
        for image in images:
            self._waiting[str(image)] = None
        if images:
            self._arrived.set()
        shown = ", ".join(f"{push.host}/{push.repository}:{push.tag}"[:_MAX_SHOWN] for push in told[:_MAX_NAMES])
        log.info("push.told", pushed=shown, images=len(images), ignored=len(told) - len(images))
        return {"accepted": len(images), "ignored": len(told) - len(images)}

    async def _order_on(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            self._arrived.clear()
            images = list(self._waiting)[:MAX_IMAGES]
            try:
                await self._board.refresh(images)
                self._board.order(self._settings.order(images), "push")
            except Crowded as error:
                log.info("push.waits", images=len(images), reason=str(error))
                self._arrived.set()
                await asyncio.sleep(_CROWDED_SECONDS)
                continue
            except OrderRefused as error:
                log.warning("push.not_preheated", images=len(images), reason=str(error))
            except Exception:  # a fault of ours: the next push is to be heard all the same
                log.exception("push.failed")
            for image in images:
                self._waiting.pop(image, None)
            if self._waiting:
                self._arrived.set()
