"""`shoal pull`: an image into the store, by a node that lives as long as the pull, or through the daemon that runs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import msgspec
import structlog

from peer.store import StoreBusy
from shoal.cli.configuration import Configuration
from shoal.cli.image import Progress, PulledImage, PullFailed, pull
from shoal.cli.node import Node
from shoal.descriptor import Platform
from shoal.operations import OperationsSettings, process_metrics
from shoal.reference import Reference

log = structlog.get_logger()

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


async def pull_into_store(
    configuration: Configuration, reference: Reference, platform: Platform, progress: Progress
) -> PulledImage:
    """Pull an image; raises `PullFailed`, `StoreError` and `OSError`."""
    registry = reference.registry
    if configuration.proxy.upstream(registry) is None:
        known = ", ".join(sorted(configuration.proxy.upstreams))
        raise PullFailed(f"no upstream {registry!r} is configured (there is: {known}; add one with --upstream)")
    try:
        async with _short_lived(configuration) as node:
            return await pull(_url("127.0.0.1", node.proxy.port), reference, platform, progress)
    except StoreBusy as busy:
        proxy = configuration.proxy
        url = _url(_LOOPBACK.get(proxy.host, proxy.host), proxy.port)
        log.info("pull.through_daemon", url=url)
        try:
            return await pull(url, reference, platform, progress)
        except PullFailed as error:
            raise PullFailed(f"{busy}; through its proxy at {url}: {error}") from None


@contextlib.asynccontextmanager
async def _short_lived(configuration: Configuration) -> AsyncIterator[Node]:
    """A node on free ports that stops as soon as the image is there."""
    peer = msgspec.structs.replace(
        configuration.peer, port=0, shutdown_grace=0.0, operations=OperationsSettings(host="127.0.0.1", port=0)
    )
    proxy = msgspec.structs.replace(configuration.proxy, host="127.0.0.1", port=0, shutdown_timeout=0.0)
    async with Node(peer, proxy, process_metrics()) as node:
        yield node


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
