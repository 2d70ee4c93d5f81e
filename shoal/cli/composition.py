"""What each daemon consists of, and how it is kept until it is told to stop."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import msgspec
from prometheus_client import CollectorRegistry

import shoal.cli.daemon
from shoal.cli.configuration import Configuration
from shoal.cli.exits import BadConfiguration
from shoal.cli.failures import failures
from shoal.cli.node import Node
from shoal.cli.reloading import Reloading
from shoal.fields import authority, from_here, is_everywhere, is_loopback
from shoal.operations import process_metrics
from shoal.traces import traces_of
from supernode.daemon import Supernode

Daemon = contextlib.AbstractAsyncContextManager[object]


def keep(
    open_daemon: Callable[[Configuration, Reloading], Daemon],
    configuration: Configuration,
    read: Callable[[], Configuration],
) -> None:
    """Run a daemon; what people can do something about becomes a `click.ClickException`.

    `read` reads the configuration again.
    """
    reloading = Reloading(configuration, read)
    with failures():
        shoal.cli.daemon.run(lambda: open_daemon(configuration, reloading), reloading.on_signal)


def supernode(configuration: Configuration, reloading: Reloading) -> Supernode:
    """The supernode alone."""
    return _supernode(configuration, process_metrics(), reloading)


def node(configuration: Configuration, reloading: Reloading) -> Node:
    """One node's peer and proxy."""
    return _node(configuration, process_metrics(), reloading)


@contextlib.asynccontextmanager
async def everything(configuration: Configuration, reloading: Reloading) -> AsyncIterator[None]:
    """A supernode and one node that is its peer."""
    metrics = process_metrics()
    host = reached_at(configuration)
    async with _supernode(configuration, metrics, reloading) as lead:
        scheme = "https" if configuration.cluster.uses_tls else "http"
        address = authority(host, lead.server.port)
        own = msgspec.structs.replace(configuration.peer, supernode=f"{scheme}://{address}")
        async with _node(msgspec.structs.replace(configuration, peer=own), metrics, reloading):
            yield


def reached_at(configuration: Configuration) -> str:
    """The host by which a node reaches the supernode of its own process: by another one it is seen as that machine.

    Raises `BadConfiguration` where peers of other machines would find the supernode and not this node.
    """
    host, peer = configuration.supernode.host, configuration.peer
    if is_loopback(host):
        return host
    if is_loopback(peer.host):
        raise BadConfiguration(
            f"`supernode.host` {host!r} is reached from other machines, and `peer.host` {peer.host!r} is not: nodes "
            "there would be told of one that they cannot reach. Let the peer listen there too (--peer-listen)."
        )
    if is_everywhere(host) and not peer.advertise:
        raise BadConfiguration(
            f"`supernode.host` {host!r} stands for all addresses of this machine: say by which one peers of other "
            "machines reach this node (--advertise), or listen at that one alone."
        )
    return from_here(host)


def _supernode(configuration: Configuration, metrics: CollectorRegistry, reloading: Reloading) -> Supernode:
    lead = Supernode(configuration.supernode, configuration.cluster, metrics, reloading.reload)
    reloading.tell(lambda read: lead.prepare(read.supernode))
    return lead


def _node(configuration: Configuration, metrics: CollectorRegistry, reloading: Reloading) -> Node:
    traces = traces_of(configuration.traces)
    found = Node(configuration.peer, configuration.proxy, configuration.cluster, metrics, reloading.reload, traces)
    reloading.tell(lambda read: found.prepare(read.peer, read.proxy))
    return found
