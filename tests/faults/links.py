"""Links that are cut in the middle of pulls, and come back."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.netns import Host, Network
from tests.faults.members import NETWORK
from tests.faults.run import Run
from tests.faults.suite import fault
from tests.faults.world import MIB
from tests.world.nodes import Node

_SHORT, _LONG = 8.0, 25.0
"""Seconds: shorter and longer than what TCP and heartbeats take to notice."""
_LONG_ONES = 0.2
"""The share of outages that are long."""


def _network(run: Run) -> Network:
    assert run.world.network is not None
    return run.world.network


def _host(node: Node) -> Host:
    assert node.host is not None
    return node.host


def _begin(run: Run) -> None:
    """All pull, and are in the middle of it."""
    run.push(*(run.rng.randint(3 * MIB, 5 * MIB) for _ in range(run.rng.randint(2, 3))))
    run.pull()
    run.wait_for_progress(run.rng.uniform(0.05, 0.6))


def _last(run: Run) -> None:
    """As long as an outage lasts."""
    seconds = _LONG if run.rng.random() < _LONG_ONES else _SHORT
    run.lasts(0.7 * seconds, seconds)


@contextmanager
def _unplugged(network: Network, host: Host) -> Iterator[None]:
    network.unplug(host)
    try:
        yield
    finally:
        network.plug(host)


@contextmanager
def _parted(network: Network, *hosts: Host) -> Iterator[None]:
    network.part(*hosts)
    try:
        yield
    finally:
        network.join(*hosts)


@contextmanager
def _interface_down(host: Host) -> Iterator[None]:
    """As its system takes it down: addresses stay, routes go, and connections break by the first packet."""
    link = ["ip", "-n", host.namespace, "link", "set", "eth0"]
    subprocess.run([*link, "down"], check=True)
    try:
        yield
    finally:
        subprocess.run([*link, "up"], check=True)


@fault(NETWORK, runs=5)
def node_is_unplugged(run: Run) -> None:
    """Its clients have no source meanwhile; the others do not notice."""
    _begin(run)
    node = run.rng.choice(run.world.nodes)
    began = time.monotonic()
    with _unplugged(_network(run), _host(node)):
        _last(run)
    run.without_source(began, node)
    run.harmed(run.world.members[run.world.nodes.index(node)])
    run.over()


@fault(NETWORK, short_runs=0)
def interface_of_a_node_is_down(run: Run) -> None:
    """And comes up again."""
    _begin(run)
    node = run.rng.choice(run.world.nodes)
    began = time.monotonic()
    with _interface_down(_host(node)):
        _last(run)
    run.without_source(began, node)
    run.harmed(run.world.members[run.world.nodes.index(node)])
    run.over()


@fault(NETWORK, short_runs=0)
def supernode_is_unplugged(run: Run) -> None:
    """Nobody has less of a source for it."""
    _begin(run)
    host = run.world.supernode.host
    assert host is not None
    with _unplugged(_network(run), host):
        _last(run)
        run.wait()
    run.world.wait_until_joined()
    run.over()


@fault(NETWORK)
def two_nodes_are_parted(run: Run) -> None:
    """They reach all others."""
    _begin(run)
    with _parted(_network(run), *(_host(node) for node in run.rng.sample(run.world.nodes, 2))):
        run.wait()


@fault(NETWORK, short_runs=0)
def node_and_supernode_are_parted(run: Run) -> None:
    """The node reaches the origin and its neighbours."""
    _begin(run)
    host = run.world.supernode.host
    assert host is not None
    with _parted(_network(run), host, _host(run.rng.choice(run.world.nodes))):
        _last(run)
        run.wait()
    run.world.wait_until_joined()
    run.over()


@fault(NETWORK, short_runs=0)
def origin_is_unplugged(run: Run) -> None:
    """From everything: what no node has nobody gets."""
    _begin(run)
    began = time.monotonic()
    with _unplugged(_network(run), _network(run).hosts[0]):
        _last(run)
    run.may_refuse = True
    run.without_source(began)
    run.over()


@fault(NETWORK, short_runs=0)
def only_seed_is_unplugged(run: Run) -> None:
    """The origin has what it had."""
    run.push(8 * MIB, 4 * MIB)
    seed, *others = run.world.nodes
    run.pull(seed)
    run.wait()
    pulls = run.pull(*others)
    run.wait_for_progress(run.rng.uniform(0.05, 0.5), *pulls)
    with _unplugged(_network(run), _host(seed)):
        _last(run)
