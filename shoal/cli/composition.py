"""What each daemon consists of, and how it is kept until it is told to stop."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import msgspec

import shoal.cli.daemon
from shoal.cli.configuration import Configuration
from shoal.cli.failures import failures
from shoal.cli.node import Node
from shoal.operations import process_metrics
from supernode.daemon import Supernode

Daemon = contextlib.AbstractAsyncContextManager[object]


def keep(open_daemon: Callable[[Configuration], Daemon], configuration: Configuration) -> None:
    """Run a daemon; what people can do something about becomes a `click.ClickException`."""
    with failures():
        shoal.cli.daemon.run(lambda: open_daemon(configuration))


def supernode(configuration: Configuration) -> Daemon:
    """The supernode alone."""
    return Supernode(configuration.supernode, configuration.cluster, process_metrics())


def node(configuration: Configuration) -> Daemon:
    """One node's peer and proxy."""
    return Node(configuration.peer, configuration.proxy, configuration.cluster, process_metrics())


@contextlib.asynccontextmanager
async def everything(configuration: Configuration) -> AsyncIterator[None]:
    """A supernode and one node that is its peer."""
    metrics = process_metrics()
    async with Supernode(configuration.supernode, configuration.cluster, metrics) as lead:
        scheme = "https" if configuration.cluster.uses_tls else "http"
        own = msgspec.structs.replace(configuration.peer, supernode=f"{scheme}://127.0.0.1:{lead.server.port}")
        async with Node(own, configuration.proxy, configuration.cluster, metrics):
            yield
