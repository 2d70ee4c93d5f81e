"""The pictures of a cluster as JSON over the operations port.

Who may is decided in `shoal.changes`; the shapes are those of `supernode.views`, described in
`docs/supernode-api.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from shoal.changes import Changes, Handler
from supernode.onlookers import Onlookers
from supernode.rows import give_rows
from supernode.telemetry import Telemetry
from supernode.views import ClusterView, Picture, Unknown
from supernode.watching import GLANCE, Subject

CLUSTER_PATH, NODES_PATH, SWARMS_PATH, IMAGES_PATH = "/v1/cluster", "/v1/nodes", "/v1/swarms", "/v1/images"


class Gallery:
    """`routes` belong to the supernode's operations server."""

    def __init__(self, view: ClusterView, onlookers: Onlookers, telemetry: Telemetry, changes: Changes) -> None:
        self._view = view
        self._onlookers = onlookers
        self._telemetry = telemetry
        self._changes = changes

    def routes(self) -> list[web.RouteDef]:
        """The state of the cluster."""
        view, show, reports = self._view, self._show, self._telemetry.reports
        images = Subject(images=True)
        return [
            web.get(CLUSTER_PATH, show(lambda _: GLANCE, lambda _: view.cluster())),
            web.get(NODES_PATH, self._changes.show(self._nodes)),
            web.get(NODES_PATH + "/{name}", show(lambda _: images, view.node)),
            web.get(SWARMS_PATH, show(lambda _: GLANCE, lambda _: view.swarms())),
            web.get(SWARMS_PATH + "/{name}", show(lambda name: Subject((view.blob_of(name),)), view.swarm)),
            web.get(IMAGES_PATH, show(lambda _: images, lambda _: view.images(), lambda _: reports.tell_images)),
            web.get(
                IMAGES_PATH + "/{name}",
                show(
                    lambda name: Subject(images=True, manifest=name),
                    view.image,
                    lambda name: reports.tell_images and name in reports.manifests,
                ),
            ),
        ]

    async def _nodes(self, request: web.Request) -> web.StreamResponse:
        self._telemetry.look(GLANCE)
        return await give_rows(request, {}, "nodes", self._view.nodes())

    def _show(
        self,
        subject: Callable[[str], Subject],
        take: Callable[[str], Picture],
        is_known: Callable[[str], bool] = lambda _: True,
    ) -> Handler:
        """A handler that shows one picture, of what the path's last part names."""

        async def handle(request: web.Request) -> web.StreamResponse:
            name = request.match_info.get("name", "")
            try:
                picture = await self._onlookers.glance(subject(name), lambda: take(name), lambda: is_known(name))
            except Unknown as error:
                return web.json_response({"error": str(error)}, status=web.HTTPNotFound.status_code)
            return web.json_response(picture)

        return self._changes.show(handle)
