"""The commands of `shoal`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator

import click
import msgspec
import uvloop
from prometheus_client import CollectorRegistry
from rich.console import Console

import shoal.cli.daemon
from peer.disk import StoreError
from proxy.admission import RulesUnusable
from proxy.errors import AuthorityUnusable
from proxy.settings import CredentialsUnreadable
from shoal.cli.config import config
from shoal.cli.configuration import Configuration
from shoal.cli.image import PulledImage, PullFailed, own_platform
from shoal.cli.keeping import gc, pin, unpin, verify
from shoal.cli.node import Node
from shoal.cli.options import (
    BadConfiguration,
    Invocation,
    general_options,
    listen_option,
    store_option,
    supernode_option,
    upstream_option,
)
from shoal.cli.orders import refresh, rm, status
from shoal.cli.progress import PullBars
from shoal.cli.pull import pull_into_store
from shoal.cluster import Exposed
from shoal.descriptor import Platform
from shoal.membership import Membership, MembershipUnusable
from shoal.operations import process_metrics
from shoal.reference import InvalidReference, Reference
from shoal.units import format_size
from supernode.server import SupernodeServer


@click.group(invoke_without_command=True)
@general_options
@click.version_option(package_name="shoal", message="shoal %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Pulls container images through a swarm of nodes.

    Every setting is a key of the configuration file, an environment variable (SHOAL_PEER__PORT for port of the table
    [peer]) that goes before it, and for some a flag that goes before both.
    """
    if context.invoked_subcommand is None:
        if context.ensure_object(Invocation).print_config:
            context.ensure_object(Invocation).configuration()
        click.echo(context.get_help())


@main.command()
@general_options
@listen_option("supernode", "Where peers reach the supernode.")
@click.pass_obj
def supernode(invocation: Invocation) -> None:
    """Run the supernode, which leads the swarm."""
    configuration = invocation.configuration()
    _run(lambda: _supernode(configuration, process_metrics()))


@main.command()
@general_options
@listen_option("proxy", "Where clients reach the proxy.")
@supernode_option
@store_option
@upstream_option
@click.pass_obj
def peer(invocation: Invocation) -> None:
    """Run one node's daemon: the peer and the proxy that its clients use as a mirror."""
    configuration = invocation.configuration()
    _run(lambda: Node(configuration.peer, configuration.proxy, configuration.cluster, process_metrics()))


@main.command()
@general_options
@listen_option("proxy", "Where clients reach the proxy.")
@store_option
@upstream_option
@click.pass_obj
def up(invocation: Invocation) -> None:
    """Run everything in one process: a supernode and one node, which mirrors docker.io on 127.0.0.1:5080."""
    configuration = invocation.configuration()
    _run(lambda: _everything(configuration))


@main.command()
@general_options
@supernode_option
@store_option
@upstream_option
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Of an image for several. This machine's.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.argument("image")
@click.pass_obj
def pull(invocation: Invocation, image: str, platform: str | None, as_json: bool) -> None:
    """Pull IMAGE into the store."""
    configuration = invocation.configuration({"log": {"level": "warning"}})
    try:
        reference = Reference.parse(image)
    except InvalidReference as error:
        raise click.BadParameter(str(error), param_hint="IMAGE") from None
    wanted = _platform(platform) if platform else own_platform()
    started = time.monotonic()
    with _failures(), PullBars(Console(stderr=True)) as bars, _runner() as runner:
        pulled = runner.run(pull_into_store(configuration, reference, wanted, bars))
    click.echo(_outcome(reference, wanted, pulled, time.monotonic() - started, as_json))


for command in (config, status, refresh, rm, pin, unpin, gc, verify):
    main.add_command(command)


@contextlib.asynccontextmanager
async def _everything(configuration: Configuration) -> AsyncIterator[None]:
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


def _run(open_daemon: Callable[[], contextlib.AbstractAsyncContextManager[object]]) -> None:
    with _failures():
        shoal.cli.daemon.run(open_daemon)


def _runner() -> asyncio.Runner:
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """What people can do something about becomes one line on standard error."""
    try:
        yield
    except (OSError, StoreError, PullFailed, AuthorityUnusable) as error:
        raise click.ClickException(str(error)) from None
    except (CredentialsUnreadable, Exposed, MembershipUnusable, RulesUnusable) as error:
        raise BadConfiguration(str(error)) from None


def _platform(text: str) -> Platform:
    parts = text.split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise click.BadParameter(f"{text!r} (allowed: OS/ARCH or OS/ARCH/VARIANT)", param_hint="--platform")
    return Platform(*parts)


def _outcome(reference: Reference, platform: Platform, pulled: PulledImage, seconds: float, as_json: bool) -> str:
    if as_json:
        fields = {
            "reference": str(reference),
            "digest": pulled.digest,
            "manifest": pulled.manifest,
            "platform": "/".join(filter(None, (platform.os, platform.architecture, platform.variant))),
            "blobs": len(pulled.blobs),
            "bytes": pulled.size,
            "seconds": round(seconds, 3),
        }
        return json.dumps(fields)
    rate = format_size(pulled.size / max(seconds, 1e-9))
    size = format_size(pulled.size)
    return f"{reference} {pulled.digest}: {len(pulled.blobs)} blobs, {size} in {seconds:.1f} s ({rate}/s)"
