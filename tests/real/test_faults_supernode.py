"""A supernode that dies in the middle of a pull, and is there again sooner, later or never."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.world.client import Got, get
from tests.world.images import random_bytes
from tests.world.nodes import Node, Supernode, wait_until
from tests.world.origin import REPOSITORY, ScriptedOrigin

MIB = 1 << 20
SIZE = 100 * MIB
RATE = 2.4 * MIB
"""Of each response of the origin, in bytes/s: with eight leases at a time a pull takes eight to ten seconds."""
NODES = 4


@pytest.fixture(scope="module")
def content() -> bytes:
    return random_bytes(SIZE, "supernode")


@dataclass
class Pull:
    """All nodes of a new cluster pull one blob at the same moment."""

    origin: ScriptedOrigin
    supernode: Supernode
    nodes: list[Node]
    digest: str

    @property
    def egress(self) -> float:
        """What has left the origin, in sizes of the blob."""
        return self.origin.sent[self.digest] / SIZE

    def run(self, pool: ThreadPoolExecutor) -> list[Got]:
        pulls = [pool.submit(get, node, f"/v2/{REPOSITORY}/blobs/{self.digest}") for node in self.nodes]
        return [pull.result() for pull in pulls]


def cluster(folder: Path, content: bytes, stack: ExitStack) -> Pull:
    origin = ScriptedOrigin(rate=RATE)
    digest, url = origin.put(content), origin.start(stack)
    supernode = Supernode(folder / "supernode")
    return Pull(
        origin, supernode, [Node(folder / f"node{n}", {"docker.io": url}, supernode.port) for n in range(NODES)], digest
    )


@pytest.fixture(scope="module")
def undisturbed(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds that the slowest node needs when nothing happens."""
    with ExitStack() as stack:
        pull = cluster(tmp_path_factory.mktemp("undisturbed"), content, stack)
        pull.supernode.start(stack)
        for node in pull.nodes:
            node.start(stack)
        got = pull.run(stack.enter_context(ThreadPoolExecutor()))
        slowest = max(each.seconds for each in got)
        print(f"undisturbed: {slowest:.1f} s, egress {pull.egress:.3f}")
        assert all(each.body == content for each in got)
        return slowest


@pytest.mark.parametrize(("away", "egress"), [(0.0, 1.10), (3.0, 1.15), (8.0, 1.15), (None, 1.3)])
def test_a_supernode_that_is_killed_costs_little_time_and_egress(
    away: float | None, egress: float, undisturbed: float, content: bytes, tmp_path: Path, stack: ExitStack
) -> None:
    pull = cluster(tmp_path, content, stack)
    daemon = pull.supernode.start(stack)
    for node in pull.nodes:
        node.start(stack)
    pool = stack.enter_context(ThreadPoolExecutor())
    pulling = pool.submit(pull.run, stack.enter_context(ThreadPoolExecutor()))
    wait_until(lambda: pull.egress > 0.4, "the pull is underway")
    daemon.kill()
    killed = time.monotonic()
    if away is not None:
        wait_until(lambda: time.monotonic() >= killed + away, "the supernode was away long enough")
        pull.supernode.start(stack)
        print(f"back after {time.monotonic() - killed:.1f} s with egress {pull.egress:.2f}")
    got = pulling.result()
    slowest = max(each.seconds for each in got)
    gap = max(each.longest_gap for each in got)
    print(
        f"away {away}: {slowest:.1f} s ({slowest / undisturbed:.2f} of undisturbed), egress {pull.egress:.3f}, {gap=:.1f}"
    )
    assert all(each.body == content for each in got)
    assert pull.egress <= egress
    assert slowest <= 1.5 * undisturbed
