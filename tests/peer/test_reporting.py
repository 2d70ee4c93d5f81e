"""What a node reports: an engine at a real supernode."""

from __future__ import annotations

import json
from collections.abc import Sequence

from peer.engine import Engine
from shoal.descriptor import OCI_MANIFEST
from shoal.digest import Digest
from supernode.protocol import PeerId
from supernode.report import HeldImage, ManifestParts, Part
from supernode.reports import Known
from supernode.server import SupernodeServer
from supernode.watching import GLANCE, Subject
from tests.world.engines import AT, MemoryOrigin, Start, until

LAYER = b"a layer" * 30_000
CONFIG = b"{}"


def described(content: bytes) -> dict[str, object]:
    return {"mediaType": "x/y", "digest": Digest.of(content), "size": len(content)}


MANIFEST = json.dumps(
    {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described(CONFIG), "layers": [described(LAYER)]}
).encode()


async def heard(supernode: SupernodeServer, engine: Engine, subject: Subject) -> Known:
    """What the node has reported after the next look."""
    supernode.telemetry.look(subject)
    await until(lambda: known(supernode, engine.id) is not None)
    found = known(supernode, engine.id)
    assert found is not None
    return found


def known(supernode: SupernodeServer, peer: PeerId) -> Known | None:
    return supernode.telemetry.reports.get(peer)


async def test_a_node_tells_what_came_from_which_origin(
    start: Start, supernode: SupernodeServer, origin: MemoryOrigin
) -> None:
    engine = await start("one", supernode)
    async with await engine.supply.open(origin.put(LAYER), AT) as opened:
        await opened.content()
    report = (await heard(supernode, engine, GLANCE)).report
    assert [(use.registry, use.bytes) for use in report.origins] == [(AT.registry, len(LAYER))]


async def test_images_are_told_when_they_are_asked_for_and_again_when_they_have_changed(
    start: Start, supernode: SupernodeServer
) -> None:
    engine = await start("one", supernode)
    found = [HeldImage("sha256:one", 1)]

    async def images() -> Sequence[HeldImage]:
        return found

    assert engine.reporting is not None
    engine.reporting.images = images
    assert (await heard(supernode, engine, GLANCE)).images is None
    told = await heard(supernode, engine, Subject(images=True))
    await until(lambda: told.images == tuple(found))


async def test_what_a_stored_manifest_names_is_told(start: Start, supernode: SupernodeServer) -> None:
    engine = await start("one", supernode)
    digest = Digest.of(MANIFEST)
    engine.store.put(digest, MANIFEST)
    supernode.telemetry.look(Subject(manifest=digest))
    manifests = supernode.telemetry.reports.manifests
    await until(lambda: digest in manifests)
    parts = [Part(Digest.of(each), len(each), "x/y") for each in (CONFIG, LAYER)]
    assert manifests[digest] == ManifestParts(digest, OCI_MANIFEST, parts)
