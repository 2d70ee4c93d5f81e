"""`shoal rm`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from shoal.cli.frame import Command
from shoal.cli.options import Invocation, order_options

if TYPE_CHECKING:
    from proxy.catalogue import Catalogue
    from proxy.keeping import Keeping


@click.command(cls=Command, examples=["shoal rm docker.io/library/alpine:3.20", "shoal rm --json quay.io/team/app:1"])
@order_options
@click.argument("image")
@click.pass_obj
def rm(invocation: Invocation, image: str, as_json: bool) -> None:
    """Remove IMAGE from this node's store.

    IMAGE is a reference or a digest. What other images in the store need stays, and what pins keep: a pinned image has
    to be unpinned first.
    """
    from proxy.orders import REMOVE_PATH
    from shoal.cli.keeping import carry_out
    from shoal.units import format_size

    order = {"image": image}
    answer = carry_out(invocation, "POST", REMOVE_PATH, order, lambda *at_rest: _remove(image, *at_rest))
    if as_json:
        click.echo(json.dumps(answer))
        return
    click.echo(f"{image}: {len(answer['removed'])} blobs removed, {format_size(answer['bytes'])}")
    for keeper, kept in (("other images need", answer["kept_by_images"]), ("pins keep", answer["kept_by_pins"])):
        if kept:
            click.echo(f"{len(kept)} of its blobs stay, which {keeper}")


def _remove(image: str, keeping: Keeping, catalogue: Catalogue) -> dict[str, object]:
    """From a store at rest."""
    from proxy.keeping import Name
    from shoal.digest import Digest

    removed = keeping.remove(image)
    name = Name.parse(image)
    if name.location is not None and not isinstance(name.target, Digest):
        catalogue.forget(name.location, name.target)
    return removed
