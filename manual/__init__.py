"""What is written from the commands themselves: man pages, completions of shells, and docs/commands.md.

Runs in the developers' environment and is no part of the program; it imports `shoal.cli`, and nothing imports it.
"""
