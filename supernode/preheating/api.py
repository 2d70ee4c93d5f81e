"""Preheats over the supernode's operations port: orders, how they go, and what registries tell.

The description is `docs/supernode-api.yaml`. Who may is decided in `shoal.changes` and `supernode.preheating.tokens`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from itertools import islice

import msgspec
from aiohttp import hdrs, web

from shoal.changes import Changes, OrderRefused, Outcome
from supernode.preheating import views
from supernode.preheating.board import PreheatBoard
from supernode.preheating.calendar import Calendar
from supernode.preheating.inbox import Inbox
from supernode.preheating.jobs import Job
from supernode.preheating.order import PreheatOrder
from supernode.preheating.pushes import Notification
from supernode.preheating.tokens import PreheatTokens
from supernode.rows import give, give_rows

PREHEATS_PATH, SCHEDULES_PATH, WEBHOOK_PATH = "/v1/preheats", "/v1/schedules", "/v1/webhooks/registry"
_KRAKEN_PATH, _KRAKEN_HEALTH_PATH = "/registry/notifications", "/health"
"""What Harbor's driver for Kraken asks for."""
_NEWS_SECONDS, _COMMENT_SECONDS = 0.5, 10.0
"""Between two looks for news, and after which a stream says that it is alive."""
_EVENTS = "text/event-stream"
_MAX_FOLLOWERS = 16
"""Who are told of preheats at a time. The other connections of the port are left to others."""
_TASKS = 1000
"""Images on nodes in one event, but for those of one node."""


class _NoOrder(msgspec.Struct):
    """What is ordered stands in the path."""


class PreheatApi:
    """Handlers; `routes` belong to the operations server."""

    def __init__(
        self, board: PreheatBoard, calendar: Calendar, inbox: Inbox, changes: Changes, tokens: PreheatTokens
    ) -> None:
        """`changes` asks for one of `tokens`."""
        self._board = board
        self._calendar = calendar
        self._inbox = inbox
        self._changes = changes
        self._tokens = tokens
        self._followers = 0

    def routes(self) -> list[web.RouteDef]:
        """Orders and their states, and what registries tell."""
        show = self._changes.show
        push = self._changes.order("push", Notification, self._pushed)
        one = PREHEATS_PATH + "/{id}"
        return [
            web.post(PREHEATS_PATH, self._changes.order("preheat", PreheatOrder, self._order)),
            web.get(PREHEATS_PATH, show(self._list)),
            web.get(one, show(self._show)),
            web.delete(one, self._changes.order("cancel_preheat", _NoOrder, self._cancel)),
            web.get(f"{one}/events", show(self._events)),
            web.get(SCHEDULES_PATH, self._changes.look(lambda: {"schedules": self._calendar.shown()})),
            web.post(WEBHOOK_PATH, push),
            web.post(_KRAKEN_PATH, push),
            web.get(_KRAKEN_HEALTH_PATH, self._health),
        ]

    async def _pushed(self, notification: Notification, _: web.Request) -> Outcome:
        return self._inbox.take(notification)

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "alive"})

    async def _order(self, order: PreheatOrder, request: web.Request) -> Outcome:
        await self._board.refresh(order.images)
        job = self._board.order(order, self._tokens.holder(self._changes.authorization(request)))
        return views.summary(job)

    async def _cancel(self, _: _NoOrder, request: web.Request) -> Outcome:
        job = self._job(request)
        self._board.cancel(job)
        return views.summary(job)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        jobs = reversed(list(self._board.jobs.values()))
        return await give_rows(request, {}, "preheats", map(views.summary, jobs))

    async def _show(self, request: web.Request) -> web.StreamResponse:
        try:
            job = self._job(request)
        except OrderRefused as error:
            return web.json_response({"error": str(error)}, status=404)
        return await give_rows(request, views.summary(job), "runs", views.runs(job, since=0))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: `progress` with what has changed, all of it at first, and one `end`.

        A follower who does not take them is dropped.
        """
        try:
            job = self._job(request)
        except OrderRefused as error:
            return web.json_response({"error": str(error)}, status=404)
        if self._followers >= _MAX_FOLLOWERS:
            crowded = f"{_MAX_FOLLOWERS} follow preheats already; it goes on, and `shoal preheats {job.id}` shows it"
            return web.json_response({"error": crowded}, status=503, headers={hdrs.RETRY_AFTER: "10"})
        self._followers += 1
        try:
            response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: _EVENTS, hdrs.CACHE_CONTROL: "no-store"})
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                await self._tell(job, lambda event: give(request, response, event))
            return response
        finally:
            self._followers -= 1

    @staticmethod
    async def _tell(job: Job, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send the events of a job until it is over, with so many nodes in each that others wait for none of them."""
        told, quiet, most = 0, 0.0, max(1, _TASKS // len(job.record.order.images))
        while True:
            if job.version != told:
                is_over, now, summary = job.is_over, job.version, views.summary(job)
                runs = views.runs(job, since=told)
                part = list(islice(runs, most))
                while coming := list(islice(runs, most)):
                    await send(_event("progress", {**summary, "ended": None, "runs": part}))
                    part = coming
                await send(_event("end" if is_over else "progress", {**summary, "runs": part}))
                if is_over:
                    return
                told, quiet = now, 0.0
            elif quiet >= _COMMENT_SECONDS:
                quiet = 0.0
                await send(b": still here\n\n")
            await asyncio.sleep(_NEWS_SECONDS)
            quiet += _NEWS_SECONDS

    def _job(self, request: web.Request) -> Job:
        """Raises `OrderRefused`."""
        job = self._board.jobs.get(request.match_info["id"])
        if job is None:
            raise OrderRefused("there is no such preheat (any more)")
        return job


def _event(kind: str, data: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode(data))
