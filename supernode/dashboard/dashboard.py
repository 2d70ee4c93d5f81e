"""The dashboard as a whole: what the supernode's operations server serves of it."""

from __future__ import annotations

from aiohttp import web

from shoal.changes import Changes
from shoal.sessions import Sessions
from supernode.dashboard.files import Files
from supernode.dashboard.signin import SignIn
from supernode.dashboard.stream import Stream
from supernode.dashboard.topics import Topics
from supernode.onlookers import Onlookers
from supernode.preheating.preheats import Preheats
from supernode.roster import Roster
from supernode.views import ClusterView


class Dashboard:
    """`routes` belong to the supernode's operations server."""

    def __init__(
        self,
        view: ClusterView,
        roster: Roster,
        preheats: Preheats,
        onlookers: Onlookers,
        changes: Changes,
        sessions: Sessions,
    ) -> None:
        """`changes` knows `sessions`, which are opened here."""
        self._changes = changes
        self._files = Files()
        self._stream = Stream(onlookers, Topics(view, roster, preheats), changes.may_look)
        self._sign_in = SignIn(changes, sessions)

    def routes(self) -> list[web.RouteDef]:
        """The page, the sign-in, and the stream of pictures."""
        return [
            *self._files.routes(),
            *self._sign_in.routes(),
            web.get("/v1/events", self._changes.show(self._stream.serve)),
        ]
