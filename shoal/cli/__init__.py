"""The command line, `shoal`: composes supernode, peer and proxy. The top layer; nothing imports it."""

from shoal.cli.commands import main

__all__ = ["main"]
