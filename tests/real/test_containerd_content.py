"""What a node's containerd holds, offered to the swarm without a second copy."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from shoal.digest import Digest
from tests.world.client import get
from tests.world.clients import REGISTRY, Containerd, Mirror
from tests.world.images import Layout, made_layer
from tests.world.nodes import Node, Supernode, wait_until
from tests.world.programs import require
from tests.world.registries import Registry
from tests.world.swarm import blob_path

MIB = 1 << 20


def test_what_containerd_pulled_is_given_to_the_swarm_as_long_as_it_is_there(
    registry: Registry, supernode: Supernode, tmp_path: Path, stack: ExitStack
) -> None:
    require(*Containerd.programs)
    layer = made_layer("held", 20 * MIB)
    layout = Layout(tmp_path / "pushed")
    layout.push(layout.image([layer]), registry.port, "library/held:latest")
    path = blob_path(Digest.of(layer.content), "library/held")
    containerd = Containerd(stack)
    containerd.configure(Mirror(registry.url))
    supernode.start(stack)
    upstreams = {REGISTRY: registry.url}
    holder = Node(tmp_path / "holder", upstreams, supernode.port, {"SHOAL_PEER__CONTAINERD": str(containerd.root)})
    holder.start(stack)
    containerd.pull("library/held:latest")
    wait_until(lambda: holder.counted("shoal_store_blobs") == 3, "manifest, configuration and layer are offered")
    assert holder.stored() == set()
    other = Node(tmp_path / "other", upstreams, supernode.port)
    other.start(stack)
    assert get(other, path).brings(layer.content)
    assert other.received("peer") == len(layer.content)
    assert get(holder, path).brings(layer.content)
    assert (holder.stored(), holder.received("origin")) == (set(), 0)
    containerd.forget()
    wait_until(lambda: holder.counted("shoal_store_blobs") == 0, "nothing is offered any more")
    assert get(holder, path).brings(layer.content)
    assert holder.received("peer") == len(layer.content)
