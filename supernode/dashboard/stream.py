"""Pictures that are pushed to a browser as server-sent events, as long as it takes them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from aiohttp import hdrs, web

from supernode.dashboard.topics import Topics
from supernode.onlookers import Crowded, Onlookers
from supernode.rows import give
from supernode.views import Unknown

_MAX_TOPICS = 4
_QUIET_SECONDS = 10.0
"""After which a stream without news says that it is alive."""
_ALIVE = b": still here\n\n"
_HEADERS = {hdrs.CONTENT_TYPE: "text/event-stream", hdrs.CACHE_CONTROL: "no-store", "X-Accel-Buffering": "no"}


class Stream:
    """Serves `?topic=...&topic=...`: an event for each picture that has changed, called by the topic's kind."""

    def __init__(self, onlookers: Onlookers, topics: Topics, may_look: Callable[[web.Request], bool]) -> None:
        """`may_look`: whether a request may still be shown the state."""
        self._may_look = may_look
        self._onlookers = onlookers
        self._topics = topics

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """A handler."""
        names = request.query.getall("topic", [])
        if not 1 <= len(names) <= _MAX_TOPICS:
            return web.json_response({"error": f"name 1 to {_MAX_TOPICS} topics"}, status=400)
        try:
            topics = [self._topics.topic(name) for name in names]
        except Unknown as error:
            return web.json_response({"error": str(error)}, status=404)
        async with aclosing(self._onlookers.follow(topics)) as following:
            try:
                first = await anext(following)
            except Crowded as error:
                return web.json_response({"error": str(error)}, status=503, headers={hdrs.RETRY_AFTER: "10"})
            response = web.StreamResponse(headers=_HEADERS)
            await response.prepare(request)
            await self._push(request, response, first, following)
            return response

    async def _push(
        self,
        request: web.Request,
        response: web.StreamResponse,
        pictures: list[bytes],
        following: AsyncIterator[list[bytes]],
    ) -> None:
        """Until the client leaves, or may not look any more, since its session is over or the token is another one."""
        shown: list[bytes] = [b""] * len(pictures)
        said_at = time.monotonic()
        while self._may_look(request):
            now = time.monotonic()
            news = b"".join(picture for picture, before in zip(pictures, shown, strict=True) if picture != before)
            if news or now - said_at >= _QUIET_SECONDS:
                try:
                    await give(request, response, news or _ALIVE)
                except ConnectionError:
                    return
                said_at = now
            shown = pictures
            pictures = await anext(following)
