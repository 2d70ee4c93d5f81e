"""What a page can follow: topics by the names that it asks for, and their pictures as server-sent events."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from shoal.recent import Recent
from supernode.dashboard.excerpts import MAX_ROWS, excerpt_of_image, excerpt_of_swarm, urgent
from supernode.onlookers import Topic
from supernode.preheating import views as preheat_views
from supernode.preheating.jobs import Job
from supernode.preheating.preheats import Preheats
from supernode.roster import Roster
from supernode.views import ORDERS, ClusterView, Picture, Unknown
from supernode.watching import GLANCE, Subject

_MAX_NAME = 256
_MAX_PREHEATS = 100
_IMAGES = Subject(images=True)


class Topics:
    """Topics by their names: a kind, and behind a colon what it is about.

    `cluster`, `swarms`, `images`, `preheats`; `nodes:ORDER:FIRST:TEXT` for a page of nodes; `node:PEER`,
    `swarm:DIGEST`, `image:DIGEST` and `preheat:ID`.
    """

    def __init__(self, view: ClusterView, roster: Roster, preheats: Preheats) -> None:
        self._view = view
        self._roster = roster
        self._preheats = preheats
        self._summaries: Recent[str, tuple[tuple[int, float | None], Picture]] = Recent(_MAX_PREHEATS)

    def topic(self, name: str) -> Topic:
        """Raises `Unknown` for what is no topic. What a topic is about may be missing: its picture says so then."""
        kind, _, about = name.partition(":")
        view = self._view
        if len(name) > _MAX_NAME:
            kind = ""
        match kind, about:
            case "cluster", "":
                return _topic(name, lambda: GLANCE, view.cluster)
            case "swarms", "":
                return _topic(name, lambda: GLANCE, view.swarms)
            case "images", "":
                return _topic(name, lambda: _IMAGES, view.images)
            case "preheats", "":
                return _topic(name, lambda: GLANCE, self._list)
            case "nodes", about:
                return _topic(name, lambda: GLANCE, self._page(about))
            case "node", about:
                return _topic(name, lambda: _IMAGES, lambda: view.node(about))
            case "swarm", about:
                return _topic(name, lambda: self._blob(about), lambda: self._swarm(about))
            case "image", about:
                subject = Subject(images=True, manifest=about)
                return _topic(name, lambda: subject, lambda: excerpt_of_image(view.image(about)))
            case "preheat", about:
                return _topic(name, lambda: GLANCE, lambda: self._preheat(about))
        raise Unknown(f"there is no topic {name[:100]!r}")

    def _page(self, about: str) -> Callable[[], Picture]:
        order, _, rest = about.partition(":")
        first, _, text = rest.partition(":")
        if order not in ORDERS or not (first.isascii() and first.isdecimal()) or len(first) > 6:
            raise Unknown(f"nodes are named by nodes:ORDER:FIRST:TEXT, with an order of {', '.join(ORDERS)}")
        return lambda: self._view.some_nodes(text, order, int(first), MAX_ROWS)

    def _blob(self, digest: str) -> Subject:
        try:
            return Subject((self._view.blob_of(digest),))
        except Unknown:
            return GLANCE

    def _swarm(self, digest: str) -> Picture:
        zones = {str(node.peer): node.contact.zone for node in self._roster}
        return excerpt_of_swarm(self._view.swarm(digest), zones)

    def _list(self) -> Picture:
        jobs = list(self._preheats.board.jobs.values())[: -_MAX_PREHEATS - 1 : -1]
        return {"preheats": [self._summary(job) for job in jobs], "schedules": self._preheats.calendar.shown()}

    def _preheat(self, job_id: str) -> Picture:
        job = self._preheats.board.jobs.get(job_id)
        if job is None:
            raise Unknown("there is no such preheat (any more)")
        nodes = job.record.nodes
        runs = [preheat_views.one_run(place, nodes[place]) for place in urgent(nodes)]
        return {**self._summary(job), "runs": runs, "runs_count": len(nodes)}

    def _summary(self, job: Job) -> Picture:
        """A summary, made anew only where something has changed: it looks at each image on each node."""
        now = job.version, job.record.cancelled_at
        before, summary = self._summaries.get(job.id, (None, {}))
        if before != now:
            _, summary = self._summaries.put(job.id, (now, preheat_views.summary(job)))
        return summary


def _topic(name: str, subject: Callable[[], Subject], take: Callable[[], Picture]) -> Topic:
    kind = name.partition(":")[0].encode()

    def event() -> bytes:
        try:
            picture = take()
        except Unknown as error:
            picture = {"error": str(error)}
        return b"event: %s\ndata: %s\n\n" % (kind, msgspec.json.encode(picture, enc_hook=str))

    return Topic(name, subject, event)
