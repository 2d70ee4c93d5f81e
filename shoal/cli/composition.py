"""What each daemon consists of, and how it is kept until it is told to stop."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import msgspec
from prometheus_client import CollectorRegistry

import shoal.cli.daemon
from shoal.cli.configuration import Configuration
from shoal.cli.failures import failures
from shoal.cli.node import Node
from shoal.membership import Membership
from shoal.operations import process_metrics
from supernode.server import SupernodeServer

Daemon = contextlib.AbstractAsyncContextManager[object]


def keep(open_daemon: Callable[[Configuration], Daemon], configuration: Configuration) -> None:
    """Run a daemon; what people can do something about becomes a `click.ClickException`."""
    with failures():
        shoal.cli.daemon.run(lambda: open_daemon(configuration))


def supernode(configuration: Configuration) -> Daemon:
    """The supernode alone."""
    return _supernode(configuration, process_metrics())


def node(configuration: Configuration) -> Daemon:
    """One node's peer and proxy."""
    return Node(configuration.peer, configuration.proxy, configuration.cluster, process_metrics())


@contextlib.asynccontextmanager
async def everything(configuration: Configuration) -> AsyncIterator[None]:
    """A supernode and one node that is its peer."""
    metrics = process_metrics()
    async with _supernode(configuration, metrics) as server:
        scheme = "https" if configuration.cluster.uses_tls else "http"
        own = msgspec.structs.replace(configuration.peer, supernode=f"{scheme}://127.0.0.1:{server.port}")
        async with Node(own, configuration.proxy, configuration.cluster, metrics):
            yield


@contextlib.asynccontextmanager
async def _supernode(configuration: Configuration, metrics: CollectorRegistry) -> AsyncIterator[SupernodeServer]:
    configuration.cluster.check_host("supernode.host", configuration.supernode.host)
    async with (
        Membership(configuration.cluster) as membership,
        SupernodeServer(configuration.supernode, metrics, membership) as server,
    ):
        yield server
