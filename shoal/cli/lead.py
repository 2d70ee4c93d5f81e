"""The supernode as the command line leads it: where the configuration has it, or elsewhere."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path

import click
from yarl import URL

from shoal.cli.options import Invocation
from shoal.cli.orders import Operated, the_supernode
from shoal.fields import check_url

_PORTS = {"http": 80, "https": 443}


def lead(invocation: Invocation, at: str | None, token_file: Path | None) -> Operated:
    """The supernode, `at` an address where one is given; raises `click.BadParameter`."""
    supernode = the_supernode(invocation)
    if token_file is not None:
        supernode = replace(supernode, token_file=token_file)
    if at is None:
        return supernode
    try:
        check_url("--at", at)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--at") from None
    url = URL(at)
    tls = ssl.create_default_context() if url.scheme == "https" else None
    return replace(supernode, host=url.host or "", port=url.port or _PORTS[url.scheme], tls=tls)
