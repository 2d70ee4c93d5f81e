"""`shoal images`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from shoal.cli.frame import Command
from shoal.cli.options import Invocation, order_options

if TYPE_CHECKING:
    from proxy.catalogue import Catalogue
    from proxy.keeping import Keeping

_SHOWN_DIGITS = 12


@click.command(
    cls=Command,
    examples=[
        "shoal images",
        "shoal images --json | jq -r '.images[] | select(.complete | not) | .references[]'",
    ],
)
@order_options
@click.pass_obj
def images(invocation: Invocation, as_json: bool) -> None:
    """Show the images that this node's store holds.

    Those used last come first. SIZE is what is stored of an image; SHARED is the part of it that other images need too,
    which stays when the image is removed. Blobs that are missing are fetched when the image is pulled.
    """
    from proxy.orders import IMAGES_PATH
    from shoal.cli.keeping import carry_out

    answer = carry_out(invocation, "GET", IMAGES_PATH, None, _at_rest)
    if as_json:
        click.echo(json.dumps(answer))
    else:
        _show(answer["images"])


def _at_rest(keeping: Keeping, catalogue: Catalogue) -> dict[str, object]:
    return keeping.images([(known.location, known.tag, known.descriptor.digest) for known in catalogue.tags])


def _show(found: list[dict[str, Any]]) -> None:
    import time

    from shoal.cli.tables import show
    from shoal.units import format_size

    now = time.time()
    show(
        ("image", "digest", "platform", "size", "shared", "state", "used"),
        [
            (
                "\n".join(image["references"]) or "(no name is known)",
                image["digest"].partition(":")[2][:_SHOWN_DIGITS],
                "\n".join(each["platform"] or "-" for each in image["platforms"]) or "-",
                format_size(image["bytes"]),
                format_size(image["shared_bytes"]) if image["shared_bytes"] else "",
                _state(image),
                _ago(image["used"], now),
            )
            for image in found
        ],
    )


def _state(image: dict[str, Any]) -> str:
    """`complete, pinned`, or what is missing."""
    missing = sum(platform["missing"] for platform in image["platforms"])
    words = ["complete"] if image["complete"] else [f"{missing} blobs missing" if missing else "no platform"]
    return ", ".join([*words, *(["pinned"] if image["pinned"] else [])])


def _ago(then: str, now: float) -> str:
    from datetime import datetime

    from shoal.units import format_age

    return f"{format_age(max(0.0, now - datetime.fromisoformat(then).timestamp()))} ago"
