"""What each client asks a mirror for, as it was recorded; a version that asks otherwise may want something else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from tests.compatibility.conftest import Origins
from tests.compatibility.test_matrix import image, named
from tests.world.clients import Client, Mirror
from tests.world.front import Front
from tests.world.nodes import Node


@dataclass(frozen=True)
class Manners:
    """How a client asks."""

    pings: bool = False
    """Begins with `/v2/`."""
    heads: bool = False
    """Asks for the tag by HEAD, then for the manifest by its digest."""
    ns: str = ""
    """What it says in `ns=`."""
    first_segment: str = "library"
    """Of the repository's name in the path."""
    manifest_range: str = ""
    """Its `Range` header for manifests."""
    blob_range: str = ""
    """Its `Range` header for blobs; where a blob is fetched in parts, that of the first one."""


RECORDED = {
    "docker": Manners(pings=True, heads=True),
    "containerd 1.6": Manners(heads=True, ns="docker.io"),
    "containerd 2": Manners(heads=True, ns="docker.io"),
    "containerd 2, layers in parts": Manners(
        heads=True, ns="docker.io", manifest_range="bytes=0-", blob_range="bytes=0-"
    ),
    "podman": Manners(pings=True, first_segment="docker.io"),
    "skopeo": Manners(pings=True, first_segment="docker.io"),
    "crane": Manners(pings=True),
    "oras": Manners(),
    "regctl": Manners(ns="registry-1.docker.io"),
    "buildkitd": Manners(heads=True, ns="docker.io"),
}


def test_a_client_asks_as_it_was_recorded(
    client: Client,
    node: Node,
    origins: Origins,
    stack: ExitStack,
    record_property: Callable[[str, object], None],
) -> None:
    record_property("version", client.version())
    name = named(client, "manners")
    pushed = origins.image(name)
    front = Front(node.url).start(stack)
    client.configure(Mirror(front.url))
    assert client.pull(image(name)) == pushed.digest
    client.forget()
    assert observed(front) == RECORDED[client.name]
    if client.name == "docker":  # which connects anew for each request
        assert len({each.connection for each in front.seen}) == len(front.seen)


def observed(front: Front) -> Manners:
    """The manners of who asked there."""
    manifests = [each for each in front.seen if each.kind == "manifests"]
    blobs = front.asked("GET", "blobs")
    return Manners(
        pings=front.seen[0].path == "/v2/",
        heads=manifests[0].method == "HEAD",
        ns=manifests[0].query.removeprefix("ns="),
        first_segment=manifests[0].path.split("/")[2],
        manifest_range=manifests[-1].headers.get("range", ""),
        blob_range=blobs[0].headers.get("range", ""),
    )
