"""`shoal pull`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from shoal.cli.frame import Command
from shoal.cli.options import (
    Invocation,
    any_upstream_option,
    cluster_options,
    general_options,
    json_option,
    store_option,
    supernode_option,
    upstream_option,
)

if TYPE_CHECKING:
    from shoal.cli.image import PulledImage
    from shoal.descriptor import Platform
    from shoal.reference import Reference


@click.command(
    cls=Command,
    examples=[
        "shoal pull docker.io/library/alpine:3.20",
        "shoal pull --platform linux/arm64 --upstream quay.io=https://quay.io quay.io/prometheus/prometheus:latest",
    ],
)
@general_options
@supernode_option
@cluster_options
@store_option
@upstream_option
@any_upstream_option
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Which one, of an image for several. This machine's.")
@json_option
@click.argument("image")
@click.pass_obj
def pull(invocation: Invocation, image: str, platform: str | None, as_json: bool) -> None:
    """Pull IMAGE into this node's store.

    Where a daemon has the store open, it is the daemon that pulls. The node's own credentials are used.
    """
    import asyncio

    import uvloop
    from rich.console import Console

    from shoal.cli.failures import failures
    from shoal.cli.progress import PullBars
    from shoal.cli.pulling import pull_into_store
    from shoal.platforms import own_platform
    from shoal.reference import InvalidReference, Reference

    configuration = invocation.configuration({"log": {"level": "warning"}})
    try:
        reference = Reference.parse(image)
    except InvalidReference as error:
        raise click.BadParameter(str(error), param_hint="IMAGE") from None
    wanted = _platform(platform) if platform else own_platform()
    started = time.monotonic()
    with (
        failures(),
        PullBars(Console(stderr=True)) as bars,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        pulled = runner.run(pull_into_store(configuration, reference, wanted, bars))
    click.echo(_outcome(reference, wanted, pulled, time.monotonic() - started, as_json))


def _platform(text: str) -> Platform:
    from shoal.platforms import parse_platform

    try:
        return parse_platform(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--platform") from None


def _outcome(reference: Reference, platform: Platform, pulled: PulledImage, seconds: float, as_json: bool) -> str:
    from shoal.units import format_size

    if as_json:
        fields = {
            "reference": str(reference),
            "digest": pulled.digest,
            "manifest": pulled.manifest,
            "platform": str(platform),
            "blobs": len(pulled.blobs),
            "bytes": pulled.size,
            "seconds": round(seconds, 3),
        }
        return json.dumps(fields)
    rate = format_size(pulled.size / max(seconds, 1e-9))
    size = format_size(pulled.size)
    return f"{reference} {pulled.digest}: {len(pulled.blobs)} blobs, {size} in {seconds:.1f} s ({rate}/s)"
