"""The accounts of pulls, over the operations port."""

from __future__ import annotations

import itertools
import time

from aiohttp import web

from proxy.explanation import explanation, summary
from proxy.orders import EXPLAIN_PATH, PULLS_PATH
from proxy.pulls import Pulls
from shoal.changes import Changes
from shoal.reference import InvalidReference, Location, Reference

_MOST = 50
"""Pulls of one list."""


class Accounts:
    """`routes` belong to the node's operations server."""

    def __init__(self, pulls: Pulls, changes: Changes) -> None:
        self._pulls = pulls
        self._changes = changes

    def routes(self) -> list[web.RouteDef]:
        """The last pulls, and one of them with all its requests."""
        show = self._changes.show
        return [web.get(PULLS_PATH, show(self.pulls)), web.get(EXPLAIN_PATH, show(self.explain))]

    async def pulls(self, _: web.Request) -> web.Response:
        """The last pulls, the newest first."""
        now = time.monotonic()
        return web.json_response({"pulls": [summary(pull, now) for pull in itertools.islice(self._pulls, _MOST)]})

    async def explain(self, request: web.Request) -> web.Response:
        """The last pull of `image`, or of any."""
        image = request.query.get("image", "")
        try:
            reference = Reference.parse(image) if image else None
        except InvalidReference as error:
            return web.json_response({"error": str(error)}, status=web.HTTPBadRequest.status_code)
        if reference is None:
            pull = self._pulls.last(None, None)
        else:
            pull = self._pulls.last(Location(reference.registry, reference.repository), reference.target)
        if pull is None:
            missing = f"no pull of {reference} is remembered" if reference is not None else "no pull is remembered"
            message = (
                f"{missing}: this node has served none since it was started, or many others since then. "
                "`shoal doctor` says whether the container runtime asks this node."
            )
            return web.json_response({"error": message}, status=web.HTTPNotFound.status_code)
        return web.json_response(explanation(pull, time.monotonic()))
