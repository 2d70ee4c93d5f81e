"""`shoal config`: what belongs to the configuration and is no setting."""

from __future__ import annotations

import click

from shoal.cli.frame import Group

_SECTIONS = {
    "Forward-proxy mode": {
        "ca": "shoal.cli.authority:ca",
    },
}
"""Where each command is, as in `shoal.cli.commands`."""


@click.group(cls=Group, sections=_SECTIONS, examples=["shoal config ca > shoal-ca.crt"])
def config() -> None:
    """Make and show what belongs to the configuration."""
