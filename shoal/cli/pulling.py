"""An image into the store: by a node that lives as long as the pull, or through the daemon that runs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import structlog

from peer.disk import StoreBusy, StoreError
from proxy.credentials import NodeCredentials
from proxy.settings import UpstreamSettings
from shoal.cli.configuration import Configuration
from shoal.cli.image import Progress, PulledImage, PullFailed, pull
from shoal.cli.keeping import is_forbidden, why_closed
from shoal.cli.node import Node
from shoal.cli.runtimes.mirror import mirror_of
from shoal.daemonsettings import OperationsSettings
from shoal.descriptor import Platform
from shoal.fields import authority
from shoal.operations import process_metrics
from shoal.reference import Reference, Registry
from shoal.traces import traces_of

log = structlog.get_logger()

_MIRROR_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
"""A mirror answers any question within 5 s."""


async def pull_into_store(
    configuration: Configuration, reference: Reference, platform: Platform, progress: Progress
) -> PulledImage:
    """Pull an image; raises `PullFailed`, `StoreError`, `OSError` and what `Node` does."""
    registry = reference.registry
    upstream = configuration.proxy.upstream(registry)
    if upstream is None and not configuration.proxy.any_upstream:
        known = ", ".join(sorted(configuration.proxy.upstreams))
        raise PullFailed(f"no upstream {registry!r} is configured (there is: {known}; add one with --upstream)")
    authorization = None if upstream is None else await _own_authorization(registry, upstream)
    store = configuration.peer.store
    reason = why_closed(store) if os.path.exists(store) else ""  # noqa: PTH110 (false where it is not to be seen)
    try:
        if not reason:
            async with _short_lived(configuration) as node:
                url = f"http://{authority('127.0.0.1', node.proxy.port)}"
                return await pull(url, reference, platform, progress, authorization)
    except StoreError as error:
        if not (isinstance(error, StoreBusy) or is_forbidden(error)):
            raise
        reason = str(error)
    url = mirror_of(configuration.proxy).url
    log.info("pull.through_daemon", url=url)
    try:
        await _expect_mirror(url)
        return await pull(url, reference, platform, progress, authorization)
    except PullFailed as error:
        raise PullFailed(f"{reason}; through the daemon's proxy at {url}: {error}") from None


async def _expect_mirror(url: str) -> None:
    """Raises `PullFailed` where nothing answers, before a pull is tried again and again."""
    try:
        async with aiohttp.ClientSession(timeout=_MIRROR_TIMEOUT) as session, session.head(f"{url}/v2/"):
            return
    except TimeoutError:
        raise PullFailed(
            "it does not answer; look at the daemon's log (`journalctl -u shoal-peer`), and restart it"
        ) from None
    except aiohttp.ClientError as error:
        raise PullFailed(f"{error}; `shoal doctor` says more") from None


async def _own_authorization(registry: Registry, upstream: UpstreamSettings) -> str | None:
    """What the node itself would send: who may read the configuration may pull as the node."""
    credentials = NodeCredentials(registry, upstream, time.monotonic)
    try:
        identity = await credentials.get()
    finally:
        await credentials.close()
    return None if identity is None else identity.authorization


@contextlib.asynccontextmanager
async def _short_lived(configuration: Configuration) -> AsyncIterator[Node]:
    """A node on free ports that stops as soon as the image is there."""
    peer = msgspec.structs.replace(
        configuration.peer, port=0, shutdown_grace=0.0, operations=OperationsSettings(host="127.0.0.1", port=0)
    )
    proxy = msgspec.structs.replace(configuration.proxy, host="127.0.0.1", port=0, shutdown_timeout=0.0)
    traces = traces_of(configuration.traces)
    async with Node(peer, proxy, configuration.cluster, process_metrics(), traces=traces) as node:
        yield node
